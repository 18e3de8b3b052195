// The cells of a record by name: what they are in words, what role they play, and which of their indices run.
// Axes: t reads, s is read from, h head, k key-value head, e number of a head, d number of the stream, f neuron,
// v token of the vocabulary, p stop of the river.

import { say, type Key } from '../../messages'
import { quoted } from '../../pieces'
import type { Side } from '../../cutawayfile'
import type { Run } from '../../run'
import type { Explanation, Loose } from '../../server'

export interface Cell {
  /** As it stands in the record: blocks.3.attn.q[5,2,7]. */
  text: string
  /** Without its indices. */
  tensor: string
  /** Without its stack and block: attn.q; the key of the rule that makes it. */
  rule: string
  side: Side
  layer: number | null
  index: number[]
  weight: boolean
}

const axes: { [rule: string]: string } = {
  'image': 'cyx',
  'frames': 'mr',
  'conv1': 'dr',
  'embed': 'td',
  'pos': 'td',
  'segment': 'td',
  'relative.bias': 'hts',
  'resid_pre': 'td',
  'attn.in': 'td',
  'attn.q': 'the',
  'attn.k': 'tke',
  'attn.v': 'tke',
  'attn.q_rot': 'the',
  'attn.k_rot': 'tke',
  'attn.scores': 'hts',
  'attn.pattern': 'hts',
  'attn.z': 'the',
  'attn.out': 'td',
  'resid_mid': 'td',
  'cross.in': 'td',
  'cross.q': 'the',
  'cross.k': 'ske',
  'cross.v': 'ske',
  'cross.q_rot': 'the',
  'cross.k_rot': 'ske',
  'cross.scores': 'hts',
  'cross.pattern': 'hts',
  'cross.z': 'the',
  'cross.out': 'td',
  'resid_cross': 'td',
  'mlp.in': 'td',
  'mlp.up': 'tf',
  'mlp.gate': 'tf',
  'mlp.hidden': 'tf',
  'mlp.out': 'td',
  'resid_post': 'td',
  'final': 'td',
  'head.up': 'td', // of a classifier, which reads one token only, without its first axis, and so the logits
  'head.hidden': 'td',
  'logits': 'tv',
  'logits.last': 'v',
  'river': 'pt',
}

/** Null: not a cell, but the sine or cosine of a position's angle. */
export function cellOf(text: string): Cell | null {
  const found = /^([^[]+)\[([-\d, ]+)\]$/.exec(text)
  if (!found) return null
  const tensor = found[1]
  const side = (/^(encoder|decoder)\./.exec(tensor)?.[0] ?? '') as Side
  const block = /^blocks\.(\d+)\.(.+)$/.exec(tensor.slice(side.length))
  return {
    text: text.replaceAll(' ', ''),
    tensor,
    side,
    rule: block ? block[2] : tensor.slice(side.length),
    layer: block ? Number(block[1]) : null,
    index: found[2].split(',').map(Number),
    weight: tensor.startsWith('weights.'),
  }
}

type Role = 'query' | 'key' | 'value' | 'output' | 'weight' | 'data'

export function roleOf(cell: Cell | null): Role {
  if (!cell) return 'data'
  if (cell.weight) return 'weight'
  if (/^(attn|cross)\.q/.test(cell.rule)) return 'query'
  if (/^(attn|cross)\.k/.test(cell.rule)) return 'key'
  if (/^(attn|cross)\.v/.test(cell.rule)) return 'value'
  return /^(attn|cross)\.(z|out)$/.test(cell.rule) || cell.rule === 'mlp.out' ? 'output' : 'data'
}

/** The run a cell's tokens are of: an encoder's numbers are those of what it read. */
export const runOf = (cell: Cell, run: Run): Run => (cell.side === 'encoder.' ? (run.read ?? run) : run)

/** What a cell is, in a sentence about this text. */
export function sentence(cell: Cell, run: Run, label: (id: number) => string): string {
  if (cell.weight) return aboutWeight(cell, run, label)
  if (!(cell.rule in axes)) return cell.text
  const its = runOf(cell, run)
  const places = { block: cell.layer ?? '', text: quoted(its.pieces.at(-1)!.text), ...indices(cell, run, label) }
  if (cell.rule === 'logits' && !run.writes) return say(run.classes ? 'number.logits.classify' : 'number.logits.fill', places)
  if (cell.rule === 'final' && cell.side === 'encoder.') return say('number.final.read', places)
  return say(`number.${cell.rule}` as Key, places)
}

function indices(cell: Cell, run: Run, label: (id: number) => string): { [name: string]: string | number } {
  const places: { [name: string]: string | number } = {}
  cell.index.forEach((at, axis) => {
    const letter = axes[cell.rule].slice(-cell.index.length)[axis]
    places[letter] = at
    if (letter === 't') places.text = named(counted(cell, letter, run), at)
    if (letter === 's') places.from = named(counted(cell, letter, run), at)
    if (letter === 'v') places.token = quoted(label(at))
  })
  return places
}

/** A token by its text, and by its place too where the text stands in several. */
function named(run: Run, token: number): string {
  const { text } = run.pieces.at(token)!
  const alone = run.pieces.filter((piece) => piece.text === text).length === 1
  return alone ? quoted(text) : `${quoted(text)} (${token})`
}

function aboutWeight(cell: Cell, run: Run, label: (id: number) => string): string {
  const name = cell.tensor.slice('weights.'.length)
  const [row, column] = cell.index
  if (column === undefined) return say('number.weight.one', { name, row })
  // A classifier's labels are those of its classes, not of its tokens.
  const token = name === 'stem.tokens.weight' ? (run.pieces.find((piece) => piece.id === row)?.text ?? label(row)) : label(row)
  if (name === 'stem.tokens.weight' || name === 'head.out.weight') return say('number.weight.token', { name, row, column, token: quoted(token) })
  return say('number.weight', { name, row, column })
}

type Term = Explanation['terms'][number]

/** The run whose tokens an index counts: what cross-attention reads are those of the encoder. */
const counted = (cell: Cell, letter: string, run: Run): Run =>
  letter === 's' && cell.rule.startsWith('cross.') ? (run.read ?? run) : runOf(cell, run)

/**
 * What tells the terms of one sum apart: the indices that run, those of tokens with their texts; or where they are of
 * different tensors, their names.
 */
export function apart(terms: Term[], run: Run): (term: Term) => { letter: string; at: number; text: string | null }[] | string {
  const cells = [terms[0], terms[1], terms.at(-1)].map((term) => term && cellOf(term.factors[0].cell))
  const first = cells[0]
  if (!first || !cells.every((cell) => cell?.tensor === first.tensor))
    return (term) => cellOf(term.factors[0].cell)?.rule ?? ''
  const runs = first.index.map((at, axis) => cells.some((cell) => cell!.index[axis] !== at))
  return (term) =>
    cellOf(term.factors[0].cell)!.index.flatMap((at, axis) => {
      const letter = axes[first.rule]?.[axis] ?? ''
      const text = letter === 't' || letter === 's' ? counted(first, letter, run).pieces[at].text : null
      return runs[axis] ? [{ letter, at, text }] : []
    })
}

const words: { [word: string]: number } = { 'inf': Infinity, '-inf': -Infinity, 'nan': NaN }
export const loose = (value: Loose): number => (typeof value === 'number' ? value : words[value])

/** The size of the numbers that were added and multiplied on the way: what a rounding difference is measured by. */
export function scaleOf({ terms, steps }: Explanation): number {
  const sum = terms.reduce((total, term) => total + Math.abs(loose(term.value)), 0)
  return Math.max(1, sum, ...steps.map((step) => Math.abs(loose(step.value))).filter(Number.isFinite))
}
