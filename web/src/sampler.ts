// The steps from logits to one drawn token, over the whole vocabulary, in float64.
// This is the page's copy of src/cutaway/generate/sampler.py: same order, same ties, same draw. Both are held to
// tests/golden/sampler.json. It is the only arithmetic about a model that the page does.

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
  tokensCut: number
  /** Share of the probability that came into this step and is still there after it. */
  massLeft: number
}

export interface Trace {
  steps: Step[]
  /** One probability per token id; 0 for a token that was cut. */
  probabilities: Float64Array
  /** True at temperature 0: the largest logit is taken, nothing is drawn. */
  argmax: boolean
}

export const plain: Settings = { temperature: 1, topK: null, topP: null, minP: null, repetitionPenalty: null }

/** Softmax in float64 with the largest logit taken off first; tokens at -Infinity get exactly 0. */
export function softmax(logits: ArrayLike<number>): Float64Array {
  let largest = -Infinity
  for (let i = 0; i < logits.length; i++) if (logits[i] > largest) largest = logits[i]
  const out = new Float64Array(logits.length)
  let total = 0
  for (let i = 0; i < out.length; i++) total += out[i] = Math.exp(logits[i] - largest)
  for (let i = 0; i < out.length; i++) out[i] /= total
  return out
}

/** Token ids from most to least probable; of equals the lower id first. */
export function ranking(values: ArrayLike<number>): Uint32Array {
  const ids = new Uint32Array(values.length)
  for (let i = 0; i < ids.length; i++) ids[i] = i
  return ids.sort((a, b) => values[b] - values[a] || a - b)
}

/** Repetition penalty, temperature, top-k, top-p, min-p, softmax: what each let through, and the distribution left. */
export function trace(logits: ArrayLike<number>, previous: readonly number[], settings: Settings): Trace {
  const scores = Float64Array.from(logits)
  const steps: Step[] = []
  let kept = countKept(scores)

  const step = (name: Step['name'], setting: number | null, cut: (p: Float64Array) => void) => {
    const before = softmax(scores)
    const tokensIn = kept
    cut(before)
    kept = countKept(scores)
    let massLeft = 0
    for (let i = 0; i < scores.length; i++) if (scores[i] !== -Infinity) massLeft += before[i]
    steps.push({ name, setting, tokensIn, tokensCut: tokensIn - kept, massLeft: kept === tokensIn ? 1 : massLeft })
  }

  if (settings.repetitionPenalty !== null && settings.repetitionPenalty !== 1) {
    const penalty = settings.repetitionPenalty
    step('repetition penalty', penalty, () => {
      for (const id of new Set(previous)) scores[id] = scores[id] > 0 ? scores[id] / penalty : scores[id] * penalty
    })
  }

  if (settings.temperature === 0) {
    let best = 0
    for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i
    step('temperature', 0, () => {
      for (let i = 0; i < scores.length; i++) if (i !== best) scores[i] = -Infinity
    })
    const probabilities = new Float64Array(scores.length)
    probabilities[best] = 1
    return { steps, probabilities, argmax: true }
  }

  step('temperature', settings.temperature, () => {
    for (let i = 0; i < scores.length; i++) scores[i] /= settings.temperature
  })

  const { topK, topP, minP } = settings
  if (topK !== null && topK > 0) {
    step('top-k', topK, () => {
      const order = ranking(scores)
      for (let r = topK; r < order.length; r++) scores[order[r]] = -Infinity
    })
  }
  if (topP !== null && topP < 1) {
    step('top-p', topP, (p) => {
      const order = ranking(p)
      let sum = 0
      for (let r = 0; r < order.length; r++) {
        if (sum >= topP && r > 0) scores[order[r]] = -Infinity
        else sum += p[order[r]]
      }
    })
  }
  if (minP !== null && minP > 0) {
    step('min-p', minP, (p) => {
      let largest = 0
      for (let i = 0; i < p.length; i++) if (p[i] > largest) largest = p[i]
      for (let i = 0; i < p.length; i++) if (p[i] < minP * largest) scores[i] = -Infinity
    })
  }
  const probabilities = softmax(scores)
  steps.push({ name: 'softmax', setting: null, tokensIn: kept, tokensCut: 0, massLeft: 1 })
  return { steps, probabilities, argmax: false }
}

function countKept(scores: Float64Array): number {
  let kept = 0
  for (let i = 0; i < scores.length; i++) if (scores[i] !== -Infinity) kept++
  return kept
}

const word = (1n << 64n) - 1n

/** A number in [0, 1) that depends on nothing but the seed and the step: 53 bits of the splitmix64 finaliser. */
export function uniform(seed: number | bigint, step: number): number {
  let z = (BigInt.asUintN(64, BigInt(seed)) + 0x9e3779b97f4a7c15n * BigInt(step + 1)) & word
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & word
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & word
  z ^= z >> 31n
  return Number(z >> 11n) / 2 ** 53
}

/** The first token, in id order, at which the cumulated probability passes u. */
export function draw(probabilities: Float64Array, seed: number | bigint, step: number): { id: number; u: number } {
  const u = uniform(seed, step)
  let total = 0
  for (let i = 0; i < probabilities.length; i++) total += probabilities[i]
  let cumulated = 0
  let last = 0
  for (let i = 0; i < probabilities.length; i++) {
    if (probabilities[i] === 0) continue
    cumulated += probabilities[i]
    last = i
    if (cumulated > u * total) return { id: i, u }
  }
  return { id: last, u }
}
