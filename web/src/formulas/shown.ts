// A formula with the constants of a model in it: what does not apply to that model is left out.

import type { Element, Node } from './compile'

export type Values = { [name: string]: number | string | boolean | null | undefined }

const given = (values: Values, name: string) =>
  values[name] !== undefined && values[name] !== null && values[name] !== false

/** The nodes that stand for `node`: none, itself, or the parts of an optional one, which join its neighbours. */
export function shown(node: Node, values: Values, write: (value: number) => string): Node[] {
  if (typeof node === 'string') return [filled(node, values, write)]
  const [tag, { class: words = '', ...rest }, ...children]: Element = node
  const condition = words.split(' ').find((word) => /^(when|unless)-/.test(word))
  if (condition) {
    const [kind, ...name] = condition.split('-')
    if (given(values, name.join('-')) !== (kind === 'when')) return []
  }
  const parts = children.flatMap((child) => shown(child, values, write))
  if (tag === 'mrow' && (condition || parts.length === 0)) return parts
  const others = words.split(' ').filter((word) => word && word !== condition)
  return [[tag, others.length ? { ...rest, class: others.join(' ') } : rest, ...parts]]
}

const filled = (text: string, values: Values, write: (value: number) => string) =>
  text.replace(/\{(\w+)\}/g, (whole, name: string) => {
    const value = values[name]
    return typeof value === 'number' ? write(value) : typeof value === 'string' ? value : whole
  })

/** Whether a line says anything with these constants. */
export const empty = (nodes: Node[]): boolean =>
  nodes.every((node) => typeof node !== 'string' && empty(node.slice(2) as Node[]))
