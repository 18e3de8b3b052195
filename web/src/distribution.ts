// The list of next tokens: which rows it shows, and what stands in them.

import { ranking, softmax, type Trace } from './sampler'

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

/** Rankings and plain probabilities, kept as long as their logits are: a slider moves neither. */
const ranked = new WeakMap<Float32Array, { order: Uint32Array; plain: Float64Array }>()

function rank(logits: Float32Array) {
  let known = ranked.get(logits)
  if (!known) ranked.set(logits, (known = { order: ranking(logits), plain: softmax(logits) }))
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
  const rest = { id: null, rank: 0, logit: NaN, probability: 0, plain: 0 }
  const listed = new Set(ids)
  for (let id = 0; id < logits.length; id++) {
    if (listed.has(id)) continue
    rest.probability += trace.probabilities[id]
    rest.plain += plain[id]
  }
  return [...rows, rest]
}
