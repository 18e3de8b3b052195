// What makes the page come quickly: one script, the typefaces asked for by the document itself, and every file packed.
// firstpicture.ts does the rest.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { brotliCompressSync } from 'node:zlib'
import type { Plugin, Rolldown } from 'vite'

const first = /source-(serif-4-latin-wght-(normal|italic)|sans-3-latin-wght-normal)-[^/]*\.woff2$/

/** The typefaces of the first picture: without this they would come after its layout. */
export const preloads: Plugin = {
  name: 'preloads',
  transformIndexHtml: {
    order: 'post',
    handler: (_html, { bundle }) =>
      Object.keys(bundle ?? {})
        .filter((name) => first.test(name))
        .map((name) => ({
          tag: 'link',
          attrs: { rel: 'preload', href: `./${name}`, as: 'font', type: 'font/woff2', crossorigin: true },
          injectTo: 'head',
        })),
  },
}

/**
 * Svelte makes one object of an Error class while it loads. To keep its stack, an engine that is being inspected reads
 * the whole script once more: a dozen milliseconds of the first picture. The object is only ever compared.
 */
export const stackless: Plugin = {
  name: 'stackless',
  transform: {
    filter: { id: /svelte\/src\/internal\/client\/constants\.js/ },
    handler: (code) => code.replace('class StaleReactionError extends Error', 'class StaleReactionError'),
  },
}

/** Everything the first picture needs is one script, not one for each part that something else needs too. */
export const oneScript: Rolldown.CodeSplittingOptions = {
  includeDependenciesRecursively: false,
  groups: [{ debugName: 'page', name: (id, modules) => (needed(modules).has(id) ? 'page' : null) }],
}

let found: Set<string> | undefined

/** The modules reached from main.ts without an `import()`. */
function needed(modules: Rolldown.ChunkingContext): Set<string> {
  if (found) return found
  found = new Set<string>()
  const left = [join(import.meta.dirname, 'src/main.ts')]
  for (let id = left.pop(); id !== undefined; id = left.pop()) {
    if (found.has(id)) continue
    found.add(id)
    left.push(...(modules.getModuleInfo(id)?.importedIds ?? []))
  }
  return found
}

/** A Brotli form beside each file that shrinks; the server sends it to whoever takes it. */
export const packed: Plugin = {
  name: 'packed',
  apply: 'build',
  writeBundle({ dir }) {
    for (const entry of readdirSync(dir!, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || !/(\.(js|css|json)|index\.html)$/.test(entry.name)) continue
      const file = join(entry.parentPath, entry.name)
      writeFileSync(`${file}.br`, brotliCompressSync(readFileSync(file)))
    }
  },
}
