// TeX -> MathML at build time, as small trees the page makes elements from: nothing is parsed or typeset at run time,
// and no style attribute is ever written, which the page's policy would refuse.

import temml from 'temml'
import { sources } from './sources'

/** An element with its attributes and children; or text, in which {name} stands for a constant. */
export type Element = [tag: string, attributes: { [name: string]: string }, ...children: Node[]]
export type Node = string | Element

const role = (name: string) => `\\class{${name}}{#1}`
const macros = {
  '\\q': role('query'),
  '\\k': role('key'),
  '\\v': role('value'),
  '\\o': role('output'),
  '\\w': role('weight'),
  '\\n': '\\class{name}{\\text{#1}}',
  '\\fill': '\\class{fill}{\\text{\\{#1\\}}}',
  '\\when': '\\class{when-#1}{#2}',
  '\\unless': '\\class{unless-#1}{#2}',
}

export function compile(): { [name: string]: Node[] } {
  return Object.fromEntries(
    Object.entries(sources).map(([name, lines]) => [name, lines.map((line) => tree(mathml(line)))]),
  )
}

export function mathml(tex: string): string {
  return temml.renderToString(tex, {
    displayMode: true,
    throwOnError: true,
    trust: (context: { command: string }) => context.command === '\\class',
    macros: { ...macros },
  })
}

/** The tree of a well-formed string of elements, without what only a style sheet of temml's would use. */
export function tree(markup: string): Node {
  const root: Element = ['', {}]
  const open = [root]
  for (const [part, closing, tag, attributes] of markup.matchAll(/<(\/?)([a-z]+)([^>]*)>|[^<]+/g)) {
    if (!tag) open.at(-1)!.push(unescaped(part))
    else if (closing) open.pop()
    else {
      const node: Element = [tag, kept(attributes)]
      open.at(-1)!.push(node)
      open.push(node)
    }
  }
  return root[2]
}

function kept(attributes: string): { [name: string]: string } {
  const found: { [name: string]: string } = {}
  for (const [, name, value] of attributes.matchAll(/([\w-]+)="([^"]*)"/g)) {
    const words = name === 'class' ? value.split(' ').filter((word) => !word.startsWith('tml-')).join(' ') : value
    if (name !== 'style' && words) found[name] = unescaped(words)
  }
  return found
}

const unescaped = (text: string) =>
  text.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&quot;', '"').replaceAll('&amp;', '&')

const virtual = 'virtual:formulas'

/** `import formulas from 'virtual:formulas'` gives every formula by name. */
export function formulas() {
  return {
    name: 'formulas',
    resolveId: (id: string) => (id === virtual ? `\0${virtual}` : undefined),
    load: (id: string) => (id === `\0${virtual}` ? `export default ${JSON.stringify(compile())}` : undefined),
  }
}
