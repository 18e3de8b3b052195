import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { draw, ranking, trace } from '../src/sampler'

interface Case {
  name: string
  logits: (number | null)[]
  previous: number[]
  settings: { [name: string]: number | null }
  steps: { name: string; setting: number | null; tokens_in: number; cut: number; mass: number }[]
  kept: number[]
  probabilities: number[]
  draws: { seed: string; step: number; u: number; id: number }[]
}

const golden = new URL('../../tests/golden/sampler.json', import.meta.url)
const cases = JSON.parse(readFileSync(golden, 'utf8')).cases as Case[]

const close = (got: number, expected: number) => Math.abs(got - expected) <= 1e-12 * Math.abs(expected)

describe.each(cases.map((c) => [c.name, c] as const))('%s', (_, c) => {
  const logits = c.logits.map((x) => x ?? -Infinity)
  const found = trace(logits, c.previous, {
    temperature: c.settings.temperature ?? 1,
    topK: c.settings.top_k ?? null,
    topP: c.settings.top_p ?? null,
    minP: c.settings.min_p ?? null,
    repetitionPenalty: c.settings.repetition_penalty ?? null,
  })

  it('takes the same steps', () => {
    expect(found.steps.map((s) => [s.name, s.setting, s.tokensIn, s.cut])).toEqual(
      c.steps.map((s) => [s.name, s.setting, s.tokens_in, s.cut]),
    )
    found.steps.forEach((s, i) => expect(close(s.mass, c.steps[i].mass), `${s.name} leaves ${s.mass}`).toBe(true))
  })

  it('keeps what is still in after each step, in id order', () => {
    for (const step of found.steps) {
      expect(step.ids.length).toBe(step.tokensIn - step.cut)
      expect([...step.ids]).toEqual([...step.ids].sort((a, b) => a - b))
      expect(step.logits.length).toBe(step.ids.length)
    }
    // weights too small for a double leave the last step without having been cut
    expect([...found.steps.at(-1)!.ids].filter((id) => found.probabilities[id] > 0)).toEqual(c.kept)
  })

  it('leaves the same distribution', () => {
    expect([...found.probabilities.keys()].filter((i) => found.probabilities[i] > 0)).toEqual(c.kept)
    c.probabilities.forEach((p, i) => expect(close(found.probabilities[i], p), `token ${i}`).toBe(true))
  })

  it('draws the same tokens with the same u', () => {
    for (const d of c.draws)
      expect({ ...draw(found.probabilities, BigInt(d.seed), d.step) }).toEqual({ id: d.id, u: d.u })
  })
})

describe('the ranking', () => {
  it('is from the largest logit to the smallest, of equals the lower id first', () => {
    const logits = [0, -3, -0, 3, 3, -Infinity, 1e-40, -1e-40, -2.5, 88, -Infinity, 2.5]
    expect([...ranking(Float32Array.from(logits))]).toEqual([9, 3, 4, 11, 6, 0, 2, 7, 8, 1, 5, 10])
  })

  it('is that of a sort by comparison', () => {
    const logits = Float32Array.from({ length: 5000 }, (_, i) => Math.round(400 * Math.sin(i * i)) / 20)
    const compared = [...logits.keys()].sort((a, b) => logits[b] - logits[a] || a - b)
    expect([...ranking(logits)]).toEqual(compared)
  })
})
