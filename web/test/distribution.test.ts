import { describe, expect, it } from 'vitest'
import { listedRows, stageNames, stages, stretchOf } from '../src/distribution'
import { stretchAt, stretches } from '../src/paint/draw'
import { shown } from '../src/parts/next/arithmetic'
import { draw, trace, type Settings } from '../src/sampler'

const plain: Settings = { temperature: 1, topK: null, topP: null, minP: null, repetitionPenalty: null }
// A vocabulary of 300 with the shape of a real one: a few likely tokens and a long tail, no two alike.
const logits = Float32Array.from({ length: 300 }, (_, id) => 9 * Math.cos(id * 2.399) ** 3 - id / 200)
const previous = [0, 0, 4, 200]
const found = (settings: Partial<Settings>) => {
  const traced = trace(logits, previous, { ...plain, ...settings })
  const ids = listedRows(logits, traced, null).flatMap((row) => (row.id === null ? [] : [row.id]))
  return { traced, ids, columns: stages(logits, traced, ids) }
}

const all = { repetitionPenalty: 1.3, temperature: 0.8, topK: 40, topP: 0.9, minP: 0.05 }

describe.each([
  ['plain', {}],
  ['hot', { temperature: 3.7 }],
  ['everything', all],
  ['argmax', { temperature: 0 }],
  ['top-k 1', { topK: 1 }],
] as [string, Partial<Settings>][])('the table of stages: %s', (_, settings) => {
  const { traced, columns } = found(settings)

  it('has a column for every stage', () => {
    expect(columns.map((stage) => stage.name)).toEqual([...stageNames])
  })

  it('accounts for every token and all of the probability at each stage', () => {
    for (const stage of columns) {
      const listed = stage.cells.reduce((sum, cell) => sum + cell.share, 0)
      expect(listed + stage.rest.share).toBeCloseTo(1, 12)
      const still = stage.cells.filter((cell) => cell.fate === 'in').length
      expect(still + stage.rest.count).toBe(stage.step ? stage.step.ids.length : columns[0].cells.length + columns[0].rest.count)
      if (stage.name === 'logits') break // stages that are off have the count of the one before
    }
  })

  it('ends with the probabilities that are drawn from', () => {
    for (const cell of columns.at(-1)!.cells) expect(cell.share).toBeCloseTo(traced.probabilities[cell.id], 15)
  })
})

it('shows the arithmetic of each stage', () => {
  const { columns, traced } = found(all)
  const [raw, penalised, divided, topK, topP, minP, last] = columns
  const p = trace(logits, [], plain).probabilities
  raw.cells.forEach((cell) => {
    expect(cell.value).toBe(logits[cell.id])
    expect(cell.share).toBeCloseTo(p[cell.id], 14)
  })
  penalised.cells.forEach((cell) => {
    const repeated = previous.includes(cell.id)
    expect(cell.value).toBeCloseTo(!repeated ? cell.before : cell.before < 0 ? cell.before * 1.3 : cell.before / 1.3, 12)
  })
  expect(penalised.cells.some((cell) => cell.value !== cell.before)).toBe(true)
  divided.cells.forEach((cell, i) => expect(cell.value).toBe(penalised.cells[i].value / 0.8))
  topK.cells.forEach((cell) => expect(cell.fate === 'in').toBe(cell.value <= 40))
  topP.cells.forEach((cell) => {
    if (cell.fate === 'gone') return
    expect(cell.fate === 'in').toBe(cell.value - cell.entering < 0.9)
  })
  expect(topP.cells.some((cell) => cell.fate === 'cut')).toBe(true)
  minP.cells.forEach((cell) => {
    if (cell.fate !== 'gone') expect(cell.fate === 'in').toBe(cell.value >= 0.05)
  })
  last.cells.forEach((cell) => {
    if (cell.fate === 'gone') return
    expect(Math.exp(cell.before - last.largest) / last.sum).toBeCloseTo(traced.probabilities[cell.id], 12)
  })
  expect(shown(topK, topK.cells[0])).toBe(String(topK.cells[0].value))
})

describe('the cumulated bar', () => {
  const { probabilities } = trace(logits, [], plain)
  const { id, u } = draw(probabilities, 7, 0)

  it('covers the whole of it, the drawn token by itself', () => {
    for (const least of [0, 0.002, 0.5]) {
      const parts = stretches(probabilities, least, id)
      expect(parts[0].from).toBe(0)
      expect(parts.at(-1)!.to).toBeCloseTo(1, 12)
      parts.slice(1).forEach((part, i) => expect(part.from).toBe(parts[i].to))
      expect(parts.reduce((sum, part) => sum + part.tokens, 0)).toBe(probabilities.filter((p) => p > 0).length)
      const fallen = parts[stretchAt(parts, u)]
      expect([fallen.first, fallen.last, fallen.tokens]).toEqual([id, id, 1])
    }
  })

  it('gathers what is too narrow: a large vocabulary stays a small picture', () => {
    const flat = new Float64Array(50_000).fill(1 / 50_000)
    expect(stretches(flat, 2 / 1300, 777).map((part) => part.tokens)).toEqual([777, 1, 49_222])
    expect(stretches(probabilities, 0.01, id).length).toBeLessThan(120)
  })

  it('says where a token lies', () => {
    const { from, to } = stretchOf(probabilities, id)
    expect(from).toBeLessThanOrEqual(u)
    expect(to).toBeGreaterThan(u)
  })
})
