// From logits to one token: named steps, each of which says what went in, what it cut and the mass it left.
//
// The page's copy of src/cutaway/generate/sampler.py, where each step is explained: float64 over the whole vocabulary,
// sums strictly left to right, ties to the lower id. tests/golden/sampler.json holds both to the same numbers. It is
// the only arithmetic about a model that the page does, so that the sliders answer at once and without a server.

export interface Settings {
  temperature: number
  topK: number | null
  topP: number | null
  minP: number | null
  repetitionPenalty: number | null
}

export interface Step {
  name: 'repetition penalty' | 'temperature' | 'top-k' | 'top-p' | 'min-p' | 'softmax'
  setting: number | null
  tokensIn: number
  cut: number
  /** Share of the entering distribution held by the tokens that stay: 1 when none is cut. */
  mass: number
  /** The tokens still in after the step, in id order. */
  ids: Uint32Array
  /** What stands for their logits by then; from the temperature on, less the largest. */
  logits: Float64Array
}

export interface Trace {
  steps: Step[]
  /** One probability per token id; 0 for a token that was cut. */
  probabilities: Float64Array
  /** Temperature 0: the largest logit is taken and nothing is left to chance. */
  argmax: boolean
}

/** Every step on the logits of one position; `previous` are the ids already in the text. */
export function trace(logits: ArrayLike<number>, previous: Iterable<number>, settings: Settings): Trace {
  // The tokens still in, in id order, and their logits; each cut shortens both.
  let ids = possible(logits)
  let left = taken(logits, ids)
  const steps: Step[] = []

  const changed = (name: Step['name'], setting: number | null) =>
    steps.push({ name, setting, tokensIn: left.length, cut: 0, mass: 1, ids, logits: left })

  const cut = (name: Step['name'], setting: number, keep: (left: Float64Array, weights: Float64Array) => Uint8Array) => {
    const stays = keep(left, weights)
    const [tokensIn, before] = [ids.length, sum]
    const kept = stays.reduce((count, stay) => count + stay, 0)
    if (kept < tokensIn) {
      ids = pick(ids, stays, new Uint32Array(kept))
      left = pick(left, stays, new Float64Array(kept))
      weights = pick(weights, stays, new Float64Array(kept)) // the largest is exactly 1, and stays
      sum = total(weights)
    }
    steps.push({ name, setting, tokensIn, cut: tokensIn - kept, mass: sum / before, ids, logits: left })
  }

  const { repetitionPenalty: penalty, temperature, topK, topP, minP } = settings
  if (penalty !== null) {
    const seen = new Set(previous)
    left = left.map((x, i) => (seen.has(ids[i]) ? (x < 0 ? x * penalty : x / penalty) : x))
    changed('repetition penalty', penalty)
  }
  if (temperature !== 0) {
    const most = maximum(left) // taken off first, so that no temperature, however small, overflows
    left = left.map((x) => (x - most) / temperature)
    changed('temperature', temperature)
  }
  let weights = weigh(left)
  let sum = total(weights)
  if (temperature === 0) cut('temperature', 0, (left) => largest(left, 1))
  if (topK) cut('top-k', topK, (left) => largest(left, topK))
  if (topP !== null) cut('top-p', topP, (_, weights) => nucleus(weights, topP))
  if (minP !== null) cut('min-p', minP, (_, weights) => atLeast(weights, minP))

  const probabilities = new Float64Array(logits.length)
  for (let i = 0; i < ids.length; i++) probabilities[ids[i]] = weights[i] / sum
  changed('softmax', null)
  return { steps, probabilities, argmax: temperature === 0 }
}

/** The ids of all tokens that are not ruled out from the start. */
export function possible(logits: ArrayLike<number>): Uint32Array<ArrayBuffer> {
  const ids = new Uint32Array(logits.length)
  let count = 0
  for (let id = 0; id < logits.length; id++) if (logits[id] > -Infinity) ids[count++] = id
  return ids.slice(0, count)
}

/** The logits of these tokens. */
export function taken(logits: ArrayLike<number>, ids: Uint32Array): Float64Array<ArrayBuffer> {
  const left = new Float64Array(ids.length)
  for (let i = 0; i < ids.length; i++) left[i] = logits[ids[i]]
  return left
}

/**
 * Token ids from most to least probable; of equals the lower id first. Sorted as 64-bit integers, which the engine does
 * by itself: above, the bits of the logit turned so that the largest comes first; below, the id.
 */
export function ranking(logits: Float32Array): Uint32Array {
  const bits = new Uint32Array(logits.map((x) => x + 0).buffer) // + 0: the two zeros are equals
  const pairs = new Uint32Array(2 * logits.length)
  for (let id = 0; id < bits.length; id++) {
    pairs[2 * id] = id
    pairs[2 * id + 1] = bits[id] >>> 31 ? bits[id] : ~bits[id] & 0x7fffffff
  }
  new BigUint64Array(pairs.buffer).sort()
  return new Uint32Array(logits.length).map((_, rank) => pairs[2 * rank])
}

/** Marks the `count` largest values; of equal ones the lower places. */
function largest(values: Float64Array, count: number, ascending?: Float64Array): Uint8Array {
  if (count >= values.length) return new Uint8Array(values.length).fill(1)
  const least = (ascending ?? values.slice().sort())[values.length - count]
  const marked = new Uint8Array(values.length)
  let missing = count
  for (let i = 0; i < values.length; i++) {
    if (values[i] <= least) continue
    marked[i] = 1
    missing--
  }
  for (let i = 0; missing > 0; i++) {
    if (values[i] !== least) continue
    marked[i] = 1
    missing--
  }
  return marked
}

function atLeast(values: Float64Array, least: number): Uint8Array {
  const marked = new Uint8Array(values.length)
  for (let i = 0; i < values.length; i++) if (values[i] >= least) marked[i] = 1
  return marked
}

/** Marks the smallest set of largest weights that holds at least the share p of their sum. */
function nucleus(weights: Float64Array, p: number): Uint8Array {
  if (p >= 1) return new Uint8Array(weights.length).fill(1)
  const enough = p * total(weights)
  const ascending = weights.slice().sort()
  let sum = 0
  let count = 0
  while (count < ascending.length && !(sum >= enough && count > 0)) sum += ascending[ascending.length - ++count]
  return largest(weights, count, ascending)
}

/** exp(logit - largest): the softmax before it is divided by its sum. */
export function weigh(logits: Float64Array): Float64Array {
  const most = maximum(logits)
  const weights = new Float64Array(logits.length)
  for (let i = 0; i < logits.length; i++) weights[i] = Math.exp(logits[i] - most)
  return weights
}

export function maximum(values: Float64Array): number {
  let most = -Infinity
  for (let i = 0; i < values.length; i++) if (values[i] > most) most = values[i]
  return most
}

export function total(values: Float64Array): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]
  return sum
}

function pick<Values extends Float64Array | Uint32Array>(values: Values, stays: Uint8Array, into: Values): Values {
  let at = 0
  for (let i = 0; i < values.length; i++) if (stays[i]) into[at++] = values[i]
  return into
}

const mask = (1n << 64n) - 1n

/** 53 bits of a hash of (seed, step), as a number in [0, 1): splitmix64's finaliser. */
function uniform(seed: number | bigint, step: number): number {
  let z = (BigInt(seed) + 0x9e3779b97f4a7c15n * BigInt(step + 1)) & mask
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask
  z ^= z >> 31n
  return Number(z >> 11n) / 2 ** 53
}

/** The first token, in id order, at which the cumulated probability passes u × total; and u. */
export function draw(probabilities: Float64Array, seed: number | bigint, step: number): { id: number; u: number } {
  const u = uniform(seed, step)
  const mark = u * total(probabilities)
  let cumulated = 0
  let last = 0
  for (let id = 0; id < probabilities.length; id++) {
    if (probabilities[id] === 0) continue
    cumulated += probabilities[id]
    last = id
    if (cumulated > mark) break
  }
  return { id: last, u } // u × total may round up to the total itself: then the last token with any probability is meant
}
