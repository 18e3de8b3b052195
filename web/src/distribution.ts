// The list of next tokens: which rows it shows, what stands in them, and what each step of the sampler makes of them.

import { maximum, possible, ranking, taken, total, weigh, type Step, type Trace } from './sampler'

export const rowHeight = 26
const shownTokens = 12
export const listHeight = (shownTokens + 1) * rowHeight

export interface Row {
  /** null: everything else. */
  id: number | null
  rank: number
  logit: number
  /** After the settings. */
  probability: number
  /** As the model gave it, at temperature 1 with nothing cut. */
  plain: number
}

// What no slider moves, kept as long as the logits are: the ranking, plain probabilities, what the sampler begins with.
const ranked = new WeakMap<Float32Array, { order: Uint32Array; plain: Float64Array; start: Still }>()

/**
 * The ids from the likeliest on, and the probability of each as the model gave it. `exclusive` false: each is a yes or no
 * of its own, as some classifiers' classes are.
 */
export function rank(logits: Float32Array, exclusive = true): { order: Uint32Array; plain: Float64Array; start: Still } {
  let known = ranked.get(logits)
  if (!known) {
    const ids = possible(logits)
    const start = still(ids, taken(logits, ids))
    const plain = new Float64Array(logits.length)
    for (let i = 0; i < ids.length; i++)
      plain[ids[i]] = exclusive ? start.weights[i] / start.sum : 1 / (1 + Math.exp(-logits[ids[i]]))
    ranked.set(logits, (known = { order: ranking(logits), plain, start }))
  }
  return known
}

/** The most likely tokens, the drawn one wherever it stands, and one exact row for all the others. */
export function listedRows(logits: Float32Array, trace: Trace, drawn: number | null, count = shownTokens): Row[] {
  const { order, plain } = rank(logits)
  const ids = [...order.subarray(0, count)]
  if (drawn !== null && !ids.includes(drawn)) ids[ids.length - 1] = drawn
  const rows: Row[] = ids.map((id) => ({
    id,
    rank: order.indexOf(id) + 1,
    logit: logits[id],
    probability: trace.probabilities[id],
    plain: plain[id],
  }))
  if (ids.length === logits.length) return rows
  const rest = { id: null, rank: 0, logit: NaN, probability: without(trace.probabilities, ids), plain: without(plain, ids) }
  return [...rows, rest]
}

/** The likeliest classes, and where they exclude each other one exact row for all the others. */
export function listedClasses(logits: Float32Array, exclusive: boolean): Row[] {
  const { order, plain } = rank(logits, exclusive)
  const ids = [...order.subarray(0, shownTokens)]
  const rows = ids.map((id, i): Row => ({ id, rank: i + 1, logit: logits[id], probability: plain[id], plain: plain[id] }))
  if (!exclusive || ids.length === logits.length) return rows
  const rest = without(plain, ids)
  return [...rows, { id: null, rank: 0, logit: NaN, probability: rest, plain: rest }]
}

/** The sum of all but these. */
function without(values: Float64Array, ids: number[]): number {
  const others = values.slice()
  for (const id of ids) others[id] = 0
  return total(others)
}

/** The stages a logit goes through, in order; those whose setting is off let everything pass. */
export const stageNames = ['logits', 'repetition penalty', 'temperature', 'top-k', 'top-p', 'min-p', 'softmax'] as const
type StageName = (typeof stageNames)[number]

export interface Cell {
  id: number
  /** cut: this stage takes it out. gone: an earlier one did. */
  fate: 'in' | 'cut' | 'gone'
  /** What the stage looks at when it decides. */
  before: number
  /**
   * What it makes of it. logits, repetition penalty, temperature: the logit. top-k: the rank. top-p: the probability of
   * all tokens down to this one. min-p: how many times as likely as the likeliest. softmax: the probability.
   */
  value: number
  /** The probability the token enters with, and the one it leaves with: were softmax and the draw next. */
  entering: number
  share: number
}

export interface Stage {
  name: StageName
  /** Null: off. */
  step: Step | null
  cells: Cell[]
  /** Everything that is not listed: how many are still in, and their probability were softmax and the draw next. */
  rest: { count: number; share: number }
  /** Softmax: the largest entering logit, and the sum of exp(logit − largest). */
  largest: number
  sum: number
}

/** What is in before or after a step, and its softmax. */
interface Still {
  ids: Uint32Array
  logits: Float64Array
  weights: Float64Array
  sum: number
}

function still(ids: Uint32Array, logits: Float64Array): Still {
  const weights = weigh(logits)
  return { ids, logits, weights, sum: total(weights) }
}

/** Every stage for the listed tokens, and one exact row for all the others. */
export function stages(logits: Float32Array, trace: Trace, listed: number[]): Stage[] {
  let before = rank(logits).start
  // The sampler takes the largest logit off before it divides, which softmax does not see. The page writes x ÷ T.
  let shift = 0
  return stageNames.map((name) => {
    const step = name === 'logits' ? null : (trace.steps.find((s) => s.name === name) ?? null)
    const now = step === null || step.logits === before.logits ? before : still(step.ids, step.logits)
    const entering = before
    const lifted = shift
    if (name === 'temperature' && step && !trace.argmax) shift = maximum(entering.logits) / step.setting!
    before = now
    return {
      name,
      step,
      cells: listed.map((id): Cell => {
        const [i, j] = [place(entering.ids, id), place(now.ids, id)]
        if (i < 0) return { id, fate: 'gone', before: NaN, value: NaN, entering: 0, share: 0 }
        const cell = {
          id,
          before: entering.logits[i] + lifted,
          entering: entering.weights[i] / entering.sum,
          share: j < 0 ? 0 : now.weights[j] / now.sum,
        }
        return { ...cell, fate: j < 0 ? 'cut' : 'in', value: value(name, step, entering, i, cell, now.logits[j] + shift) }
      }),
      rest: others(now, listed),
      largest: maximum(entering.logits) + lifted,
      sum: now.sum,
    }
  })
}

function value(
  name: StageName,
  step: Step | null,
  { logits, weights, sum }: Still,
  i: number,
  { before, entering, share }: { before: number; entering: number; share: number },
  after: number,
): number {
  if (name === 'softmax') return share
  if (step === null) return before
  if (name === 'temperature') return step.setting === 0 ? before : before / step.setting!
  if (name === 'top-k') return likelier(logits, i).count + 1
  if (name === 'top-p') return likelier(logits, i, weights).held / sum + entering
  if (name === 'min-p') return weights[i]
  return after
}

/** How many tokens rank before the one at place i, and what they weigh. */
function likelier(logits: Float64Array, i: number, weights = logits): { count: number; held: number } {
  let [count, held] = [0, 0]
  for (let j = 0; j < logits.length; j++) {
    if (logits[j] < logits[i] || (logits[j] === logits[i] && j >= i)) continue
    count++
    held += weights[j]
  }
  return { count, held }
}

function others({ ids, weights, sum }: Still, listed: number[]): { count: number; share: number } {
  const unlisted = weights.slice()
  let count = ids.length
  for (const id of listed) {
    const i = place(ids, id)
    if (i < 0) continue
    unlisted[i] = 0
    count--
  }
  return { count, share: total(unlisted) / sum }
}

/** Where `id` stands in ascending ids; -1 when it does not. */
function place(ids: Uint32Array, id: number): number {
  let [low, high] = [0, ids.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (ids[middle] < id) low = middle + 1
    else high = middle
  }
  return ids[low] === id ? low : -1
}

/** Where a token lies when the probabilities are laid end to end in id order: the sum before it and with it. */
export function stretchOf(probabilities: Float64Array, id: number): { from: number; to: number } {
  const from = total(probabilities.subarray(0, id))
  return { from, to: from + probabilities[id] }
}
