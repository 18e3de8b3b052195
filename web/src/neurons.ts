// The neurons of an MLP at one token, as the page counts and orders them. Values are those of the record.

import type { Run } from './run'

/** One token's row of a tensor over the text. The last one's is often all that came along with a run. */
export const ofToken = (run: Run, name: string, token: number): Float32Array | null | undefined => {
  const row = run.get(name, token === run.length - 1 ? -1 : token)
  return row && row.data
}

/** The numbers of the largest magnitudes, the largest first. */
export function largestOf(values: ArrayLike<number>, count: number): number[] {
  const order = Array.from({ length: values.length }, (_, i) => i)
  return order.sort((a, b) => Math.abs(values[b]) - Math.abs(values[a])).slice(0, count)
}

/** How many neurons the share of the few is about. */
export const few = 10

interface Sparsity {
  /** How many neurons have more than a tenth, and than a hundredth, of the largest magnitude. */
  tenth: number
  hundredth: number
  /** The share of the `few` largest strengths in the sum of all; null where strengths are not known. */
  share: number | null
}

export function sparsity(hidden: ArrayLike<number>, strength: ArrayLike<number> | null): Sparsity {
  const sizes = Array.from(hidden, Math.abs)
  const most = Math.max(...sizes)
  const above = (part: number) => sizes.filter((size) => size > part * most).length
  const sum = (of: ArrayLike<number>) => Array.from(of).reduce((a, b) => a + b, 0)
  const whole = strength ? sum(strength) : 0
  const share = strength && whole > 0 ? sum(largestOf(strength, few).map((neuron) => strength[neuron])) / whole : null
  return { tenth: above(0.1), hundredth: above(0.01), share }
}

/** A token whose logit a neuron moves: `unit` for each unit of the neuron's value, `moved` by the value it has. */
export interface Moved {
  id: number
  unit: number
  moved: number
}

/**
 * What a neuron does now to the tokens at the ends of its column: raised most, lowered most. Below zero its value turns
 * the column round, and what the column promotes is lowered.
 */
export function movedBy(value: number, promotes: Moved[], demotes: Moved[]): { raised: Moved[]; lowered: Moved[] } {
  const now = (some: Moved[]) => some.map((one) => ({ ...one, moved: one.unit * value }))
  return value < 0 ? { raised: now(demotes), lowered: now(promotes) } : { raised: now(promotes), lowered: now(demotes) }
}
