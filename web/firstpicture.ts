// The document brings its first picture along: the page as the stored run's drawing has it, rendered here, the style
// sheet, the stored run, and the script that paints the canvases (src/first). The page's own script comes after that
// picture. A run that is asked for apart comes 35 ms later, behind the layout.

import { readFileSync } from 'node:fs'
import { build, type InlineConfig, type Plugin, type Rolldown } from 'vite'
import { svelte } from '@sveltejs/vite-plugin-svelte'
import { formulas } from './src/formulas/compile'

/** The script and the style sheet of all that main.ts reaches without an `import()` (preload.ts). */
const pageStyle = /page-[^/]*\.css$/
const pageScript = /page-[^/]*\.js$/

export const firstPicture: Plugin = {
  name: 'first picture',
  apply: 'build',
  transformIndexHtml: {
    order: 'post',
    async handler(html, { bundle }) {
      const sheet = Object.values(bundle!).find((part) => part.type === 'asset' && pageStyle.test(part.fileName)) as Rolldown.OutputAsset
      delete bundle![sheet.fileName]
      const style = String(sheet.source).trim().replaceAll('url(./', 'url(./assets/')
      const script = (await bundled('src/first/first.ts', 'iife')).trim().replace(/<(?=\/script|!--)/gi, '\\x3C')
      const [tag, address] = /\s*<script type="module"[^>]*src="([^"]*)"><\/script>/.exec(html)!
      return html
        .replace(tag, '')
        .replace(/<link rel="stylesheet"[^>]*>/, () => `<style>${style}</style>`)
        .replace('<div id="page"></div>', (await picture(address)) + `<script>${script}</script>`)
    },
  },
  // Parts that come later would ask for the style sheet, which stands in the document by now: they get, in its place in
  // the lists of what they need, the script, which is there.
  generateBundle: {
    order: 'post',
    handler(_, bundle) {
      const script = Object.keys(bundle).find((name) => pageScript.test(name))!
      const named = /"\.\/page-[\w-]+\.css"/g
      for (const part of Object.values(bundle))
        if (part.type === 'chunk') part.code = part.code.replace(named, JSON.stringify(script.replace('assets/', './')))
    },
  },
}

/** Inert until the page's script has taken it over: what is clicked before would be lost. */
async function picture(script: string): Promise<string> {
  const code = await bundled('src/first/markup.ts', 'es', { ssr: true })
  stand()
  const { markup } = (await import(`data:text/javascript;base64,${Buffer.from(code).toString('base64')}`)) as typeof import('./src/first/markup')
  const run = readFileSync('stored/first.cutaway')
  const vocabulary = JSON.parse(readFileSync('public/stored/first.vocabulary.json').toString())
  return (
    `<div id="page" inert data-script="${script}">${markup(new Uint8Array(run).buffer, vocabulary)}</div>` +
    `<script type="text/plain" id="stored">${run.toString('base64')}</script>`
  )
}

/** What the page asks of a browser while it loads, answered as on a usual screen (src/first/first.ts) in the light. */
function stand(): void {
  const deaf = { addEventListener: () => undefined }
  Object.assign(globalThis, {
    window: { ...deaf, innerWidth: 1440, innerHeight: 900, matchMedia: () => ({ ...deaf, matches: false }) },
    document: { getElementById: () => null, documentElement: { dataset: {} } },
  })
}

async function bundled(entry: string, format: 'es' | 'iife', more: InlineConfig['build'] = {}): Promise<string> {
  const made = await build({
    configFile: false,
    logLevel: 'warn',
    publicDir: false,
    plugins: [svelte(), formulas()],
    ssr: { noExternal: true },
    build: { write: false, target: 'es2022', cssCodeSplit: false, rolldownOptions: { input: entry, output: { format, codeSplitting: false } }, ...more },
  })
  const { output } = made as Rolldown.RolldownOutput
  return (output.find((part) => part.type === 'chunk') as Rolldown.OutputChunk).code
}
