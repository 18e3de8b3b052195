// The page as one file with a place for one run: its script, style and typefaces inside it, nothing asked of anybody.

import { createHash } from 'node:crypto'
import type { Plugin } from 'vite'

/** Where the run goes: takeaway/whole.ts and look/html.py put it there. */
export const place = '<!--the run-->'

// Of the typefaces only the Latin letters go along; other alphabets and formulas fall back to the reader’s own.
const alphabets = /unicode-range:\s*U\+(\?\?|0*0-)/i

const hash = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`

export const standalone: Plugin = {
  name: 'standalone',
  generateBundle: {
    order: 'post',
    handler(_, bundle) {
      let [script, style] = ['', '']
      for (const [name, part] of Object.entries(bundle)) {
        if (part.type === 'chunk') script += part.code
        else if (name.endsWith('.css')) style += String(part.source)
        else this.error(`${name} would not be inside the file`)
        delete bundle[name]
      }
      // What would end the script early, or begin a comment in it, is written with its first character as a number.
      script = script.replace(/<(?=\/script|!--)/gi, '\\x3C').trim()
      style = style.replace(/@font-face\s*\{[^}]*\}/g, (face) => (alphabets.test(face) && !/Math/.test(face) ? face : '')).trim()
      const policy = `default-src 'none'; script-src ${hash(script)}; style-src ${hash(style)}; font-src data:`
      this.emitFile({
        type: 'asset',
        fileName: 'standalone.html',
        source: `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Cutaway</title>
<style>${style}</style>
</head>
<body>
<div id="page"></div>
<noscript>Cutaway draws with JavaScript. Please allow it for this file.</noscript>
${place}
<script type="module">${script}</script>
</body>
</html>
`,
      })
    },
  },
}
