// Every name under which a run answers, with its axes: the page's copy of src/cutaway/look/names.py, for runs over tokens.
//
// T time, S source time, H heads, K key-value heads, E head width, D width, F hidden, V vocabulary.

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
  const known = [...(run.read ? ofStack(run.read, 'S') : []), ...ofStack(run, 'T'), ...ofHead(run)]
  if (run.source) return known
  const listed = known.filter(({ name }) => run.held(name))
  const others = run.file.names.filter((name) => !listed.some((one) => one.name === name))
  return [...listed, ...others.map((name) => ({ name, axes: run.header.axes?.[name] ?? [], shape: run.file.entry(name).shape }))]
}

/** What one stack makes of what it reads. `time`: the axis of its tokens. */
function ofStack(run: Run, time: 'T' | 'S'): Named[] {
  const { side, spec } = run
  const { stem } = spec
  const all: [string, string][] = stem.patch ? [['image', 'C Y X']] : stem.bins ? [['frames', 'M R']] : []
  all.push(['embed', 'T D'])
  if (stem.positions !== null) all.push(['pos', 'T D'])
  if (stem.segments) all.push(['segment', 'T D'])
  run.blocks.forEach((block, i) => {
    all.push([`blocks.${i}.resid_pre`, 'T D'])
    for (const [what, axes] of attention) all.push([`blocks.${i}.attn.${what}`, axes])
    if (!stem.patch && !stem.bins) all.push([`blocks.${i}.attn.kinds`, 'H kind'])
    all.push([`blocks.${i}.resid_mid`, 'T D'])
    if (block.cross) {
      for (const [what, axes] of attention) all.push([`blocks.${i}.cross.${what}`, crossing(what, axes)])
      all.push([`blocks.${i}.cross.mean`, 'T S'], [`blocks.${i}.resid_cross`, 'T D'])
    }
    all.push([`blocks.${i}.mlp.in`, 'T D'])
    for (const what of block.mlp.gated ? ['up', 'gate', 'hidden'] : ['up', 'hidden']) all.push([`blocks.${i}.mlp.${what}`, 'T F'])
    all.push([`blocks.${i}.mlp.strength`, 'T F'], [`blocks.${i}.mlp.out`, 'T D'], [`blocks.${i}.resid_post`, 'T D'])
  })
  all.push(['final', 'T D'], ['river', 'stop T'])
  return all.map(([name, axes]) => sized(run, side + name, axes.replaceAll(/\bT\b/g, time)))
}

/** Keys and values of cross-attention are those of the encoder's tokens. */
const crossing = (what: string, axes: string) => (/^[kv]/.test(what) ? axes.replace('T', 'S') : axes.replace('T T', 'T S'))

function ofHead(run: Run): Named[] {
  const { head } = run.spec
  const time = head.pool ? '' : 'T '
  const all: [string, string][] = head.transform ? [['head.up', `${time}D`], ['head.hidden', `${time}D`]] : []
  all.push(['logits', `${time}V`])
  if (time) all.push(['lens.ids', 'T stop top'], ['lens.p', 'T stop top'])
  return all.map(([name, axes]) => sized(run, name, axes))
}

function sized(run: Run, name: string, axes: string): Named {
  const { stem, stack, head } = run.spec
  const [, layer, cross] = /blocks\.(\d+)\.(cross)?/.exec(name) ?? []
  const block = run.blocks[Number(layer ?? 0)]
  const attn = cross ? block.cross! : block.attn
  const sizes: { [axis: string]: number } = {
    T: run.length, S: (run.read ?? run).length, D: stack.width, V: head.size, stop: run.mouth + 1, top: 10, kind: 7,
    C: stem.channels, Y: stem.image, X: stem.image, M: stem.bins ?? 0, R: 2 * stem.length,
    H: attn.heads, K: attn.kv_heads, E: attn.width, F: block.mlp.hidden,
  } // prettier-ignore
  return { name, axes: axes.split(' '), shape: axes.split(' ').map((axis) => sizes[axis]) }
}
