// Every name under which a run answers, with its axes: the page's copy of src/cutaway/look/names.py, for runs over tokens.
//
// T time, H heads, K key-value heads, E head width, D width, F hidden, V vocabulary.

import type { Run } from '../run'

export interface Named {
  name: string
  axes: string[]
  shape: number[]
}

const attention: [string, string][] = [
  ['in', 'T D'], ['q', 'T H E'], ['k', 'T K E'], ['v', 'T K E'], ['q_rot', 'T H E'], ['k_rot', 'T K E'],
  ['scores', 'H T T'], ['pattern', 'H T T'], ['z', 'T H E'], ['out', 'T D'],
] // prettier-ignore

/** In the order the machine makes them. Of a run without a server, those that it holds. */
export function named(run: Run): Named[] {
  const { stem, stack, head } = run.header.spec
  const time = head.pool ? '' : 'T '
  const all: [string, string][] = stem.patch ? [['image', 'C Y X']] : []
  all.push(['embed', 'T D'])
  if (stem.positions !== null) all.push(['pos', 'T D'])
  if (stem.segments) all.push(['segment', 'T D'])
  run.blocks.forEach((block, i) => {
    all.push([`blocks.${i}.resid_pre`, 'T D'])
    for (const [what, axes] of attention) all.push([`blocks.${i}.attn.${what}`, axes])
    if (!stem.patch) all.push([`blocks.${i}.attn.kinds`, 'H kind'])
    all.push([`blocks.${i}.resid_mid`, 'T D'], [`blocks.${i}.mlp.in`, 'T D'])
    for (const what of block.mlp.gated ? ['up', 'gate', 'hidden'] : ['up', 'hidden']) all.push([`blocks.${i}.mlp.${what}`, 'T F'])
    all.push([`blocks.${i}.mlp.strength`, 'T F'], [`blocks.${i}.mlp.out`, 'T D'], [`blocks.${i}.resid_post`, 'T D'])
  })
  all.push(['final', 'T D'])
  if (head.transform) all.push(['head.up', `${time}D`], ['head.hidden', `${time}D`])
  all.push(['logits', `${time}V`], ['river', 'stop T'])
  if (time) all.push(['lens.ids', 'T stop top'], ['lens.p', 'T stop top'])
  const known = all.map(([name, axes]) => ({ name, axes: axes.split(' '), shape: axes.split(' ').map((axis) => extent(run, name, axis)) }))
  if (run.source) return known
  const listed = known.filter(({ name }) => run.held(name))
  const others = run.file.names.filter((name) => !listed.some((one) => one.name === name))
  return [...listed, ...others.map((name) => ({ name, axes: run.header.axes?.[name] ?? [], shape: run.file.entry(name).shape }))]

  function extent(run: Run, name: string, axis: string): number {
    const block = run.blocks[Number(/^blocks\.(\d+)\./.exec(name)?.[1] ?? 0)]
    const sizes: { [axis: string]: number } = {
      T: run.length, D: stack.width, V: run.header.spec.head.size, stop: 2 * run.blocks.length + 1, top: 10, kind: 7,
      C: stem.channels, Y: stem.image, X: stem.image,
      H: block.attn.heads, K: block.attn.kv_heads, E: block.attn.width, F: block.mlp.hidden,
    } // prettier-ignore
    return sizes[axis]
  }
}
