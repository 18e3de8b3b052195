import { describe, expect, it } from 'vitest'
import { binEdges, kindOf, ranked, spanAround, stretches, tellingRead, type HeadCard } from '../src/heads'
import { path } from '../src/paint/arcs'
import { cellAt, cellBox, neighbour } from '../src/paint/matrix'

describe('the kind of a head', () => {
  it.each([
    ['previous', 0.8, [0.8, 0.1, 0, 0, 0, 0.2, 0.5]],
    ['induction', 0.4, [0.1, 0.1, 0, 0, 0.4, 0.4, 0.85]], // as much as local, which even reading has a third of
    ['broad', 0.95, [0.15, 0.18, 0.15, 0, 0, 0.4, 0.95]], // what lies near holds more only because it is many
  ])('%s %d', (kind, score, scores) => {
    expect(kindOf(scores, [0.11, 0.11, 0.11, 0.05, 0.05, 0.32, 1])).toEqual({ kind, score })
  })
})

describe('the order of the heads', () => {
  const card = (head: number, kind: HeadCard['kind'], score: number, weight: number | null): HeadCard => ({
    head,
    kind,
    score,
    read: weight === null ? null : { from: 1, weight },
  })
  const cards = [card(0, 'local', 0.5, 0.2), card(1, 'previous', 0.4, 0.9), card(2, null, 0.2, null), card(3, 'previous', 0.7, 0.2)]

  it.each([
    ['token', [1, 0, 3, 2]],
    ['kind', [3, 1, 0, 2]],
    ['number', [0, 1, 2, 3]],
  ] as const)('by %s', (by, order) => {
    expect(ranked(cards, by).map((one) => one.head)).toEqual(order)
  })

  it('counts neither the first token nor the reader itself as telling', () => {
    expect(tellingRead([0.6, 0.1, 0.05, 0.25], 3)).toEqual({ from: 1, weight: 0.1 })
    expect(tellingRead([0.6, 0.4, 0, 0], 1)).toBeNull()
  })
})

describe('bins', () => {
  it('are those of src/cutaway/look/heads.py', () => {
    expect(binEdges(5)).toEqual([0, 1, 2, 3, 4, 5])
    const edges = binEdges(2000)
    expect(edges.length).toBe(65)
    expect(edges.slice(0, 5)).toEqual([0, 31, 62, 93, 125])
    expect(edges.at(-1)).toBe(2000)
  })
})

describe('a part of a long text', () => {
  it.each([
    [0, { first: 0, end: 32 }],
    [100, { first: 84, end: 116 }],
    [1999, { first: 1968, end: 2000 }],
  ])('around %i', (centre, span) => {
    expect(spanAround(centre, 32, 2000)).toEqual(span)
  })

  it('leaves nothing out of a short line, and of a long one says what it left out weighs', () => {
    expect(stretches([0.5, 0.2, 0.3], 2, 10, 0.01)).toEqual([{ first: 0, end: 3, shown: true, weight: 1 }])
    const row = new Float64Array(1000).fill(0.0001)
    row[400] = 0.9
    const found = stretches(row, 999, 40, 0.01)
    const kept = found.filter((one) => one.shown)
    expect(kept.some((one) => one.first === 398 && one.end === 403)).toBe(true)
    expect(kept.some((one) => one.end === 1000)).toBe(true)
    expect(kept.reduce((sum, one) => sum + one.end - one.first, 0)).toBeLessThanOrEqual(40)
    expect(found.reduce((sum, one) => sum + one.weight, 0)).toBeCloseTo(0.9 + 999 * 0.0001, 9)
    expect(found[0].first).toBe(0)
    for (let i = 1; i < found.length; i++) expect(found[i].first).toBe(found[i - 1].end)
  })
})

describe('the square', () => {
  const span = (first: number, end: number) => ({ first, end })

  it.each([false, true])('finds each cell where it is drawn, turned: %s', (turned) => {
    const sheet = { turned, readers: span(3, 7), reads: span(0, 5) }
    for (let to = 3; to < 7; to++)
      for (let from = 0; from < 5; from++) {
        const { x, y, w, h } = cellBox(sheet, 200, 100, { to, from })
        expect(cellAt(sheet, 200, 100, x + w / 2, y + h / 2)).toEqual({ to, from })
      }
  })

  it('turned, readers lie along the top', () => {
    const sheet = { readers: span(0, 4), reads: span(0, 4) }
    expect(cellBox({ ...sheet, turned: false }, 40, 40, { to: 2, from: 0 })).toMatchObject({ x: 0, y: 20 })
    expect(cellBox({ ...sheet, turned: true }, 40, 40, { to: 2, from: 0 })).toMatchObject({ x: 20, y: 0 })
    expect(neighbour({ ...sheet, turned: false }, { to: 2, from: 0 }, 1, 0)).toEqual({ to: 2, from: 1 })
    expect(neighbour({ ...sheet, turned: true }, { to: 2, from: 0 }, 1, 0)).toEqual({ to: 3, from: 0 })
  })
})

describe('arcs', () => {
  it('arch above a line, and meet words of other lines at the edge that faces them', () => {
    const [a, b, below] = [
      { x: 10, top: 50, foot: 70 },
      { x: 90, top: 50, foot: 70 },
      { x: 10, top: 120, foot: 140 },
    ]
    const [start, one, two, end] = path(b, a)
    expect([start, end]).toEqual([[90, 50], [10, 50]])
    expect(Math.max(one[1], two[1])).toBeLessThan(50)
    expect(path(below, b)[0]).toEqual([10, 120])
    expect(path(below, b)[3]).toEqual([90, 70])
  })
})
