import { describe, expect, it } from 'vitest'
import { parse } from '../src/cutawayfile'
import { blockShape, largest, middle, ribbons, ribbonY, strokeAt, strokeX, type BlockView } from '../src/paint/weave'
import { isMasked } from '../src/paint/matrix'
import { Run, part, row } from '../src/run'
import { bytesOf } from './file'

const spec = { stack: { width: 2, blocks: [{ attn: { heads: 2, causal: true }, mlp: { hidden: 3 } }], final_norm: null } }
const header = { format: 1, model: { name: 'm' }, text: 'a b c', tokens: [5, 6, 7], spec }
const pattern = [
  [1, 0, 0, 0.5, 0.5, 0, 0.2, 0.01, 0.79],
  [1, 0, 0, 0.1, 0.9, 0, 0.1, 0.7, 0.2],
].flat()
const file = bytesOf(header, {
  river: { shape: [3, 3], values: [1, 2, 3, 4, 5, 6, 7, 8, 9] },
  'blocks.0.attn.pattern': { shape: [2, 3, 3], values: pattern },
  'blocks.0.mlp.hidden[-1]': { shape: [3], values: [1, -2, 3] },
})

describe('a run', () => {
  it('gives what the file holds, whole and by index', () => {
    const run = new Run(file, 'stored', null)
    expect([...run.pattern(0, 1)!.subarray(3, 6)].map((x) => Number(x.toFixed(2)))).toEqual([0.1, 0.9, 0])
    expect([...run.hidden(0, 2)!]).toEqual([1, -2, 3])
    expect(run.hidden(0, 1)).toBeNull() // only the last token's was kept
    expect(run.norm(2, 1)).toBe(8)
    expect(run.norm(0, 0)).toBe(1)
    expect(run.pieces.map((piece) => piece.text)).toEqual(['#5', '#6', '#7'])
    expect(run.tellingHead(0, 2)).toBe(1) // head 1 reads 0.7 from token 1, head 0 only 0.01
  })

  it('asks once for what it lacks, and says null when nobody has it', async () => {
    const asked: string[] = []
    const run = new Run(file, 'live', {
      record: 'r',
      tensor: async (name, at) => {
        asked.push(`${name}[${at}]`)
        return name === 'final' ? { shape: [2], data: Float32Array.from([1, 2]) } : null
      },
      explain: () => Promise.reject(new Error('not asked for here')),
    })
    expect(run.get('final', 2)).toBeUndefined()
    expect(run.get('final', 2)).toBeUndefined()
    expect(run.get('nothing', 0)).toBeUndefined()
    await new Promise((done) => setTimeout(done))
    expect([...run.get('final', 2)!.data]).toEqual([1, 2])
    expect(run.get('nothing', 0)).toBeNull()
    expect(asked).toEqual(['final[2]', 'nothing[0]'])
    expect(new Run(file, 'stored', null).get('final', 2)).toBeNull()
  })

  it('counts a negative index from the end', () => {
    const tensor = parse(file).tensor('river')!
    expect([...row(tensor, -1).data]).toEqual([7, 8, 9])
  })
})

describe('a part of a tensor', () => {
  const tensor = { shape: [2, 3, 4], data: Float32Array.from({ length: 24 }, (_, i) => i) }

  it.each([
    [1, [3, 4], [12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]],
    ['1,-1', [4], [20, 21, 22, 23]],
    [':,2', [2, 4], [8, 9, 10, 11, 20, 21, 22, 23]],
    ['0,1:3,2:9', [2, 2], [6, 7, 10, 11]],
    ['1,-2:,0', [2], [16, 20]],
    ['1,1,1', [], [17]],
  ])('%s', (at, shape, values) => {
    expect(part(tensor, at)).toEqual({ shape, data: Float32Array.from(values) })
  })
})

describe('strokes', () => {
  it.each([
    [448, 52],
    [64, 80],
    [3, 200],
    [1000, 30],
  ])('%i values in %i pixels: each is under exactly one stroke', (count, width) => {
    const values = Float32Array.from({ length: count }, (_, i) => Math.sin(i))
    const seen = new Set<number>()
    for (let x = 0; x <= width; x += 0.05) {
      const { index, first, last } = strokeAt(values, [0, width], x)
      expect(index).toBeGreaterThanOrEqual(first)
      expect(index).toBeLessThanOrEqual(last)
      for (let i = first; i <= last; i++) {
        seen.add(i)
        expect(Math.abs(values[i])).toBeLessThanOrEqual(Math.abs(values[index]))
      }
    }
    expect(seen.size).toBe(count)
  })

  it('finds a value again where its stroke stands', () => {
    const values = Float32Array.from({ length: 40 }, (_, i) => i)
    for (const i of values) expect(strokeAt(values, [10, 110], strokeX(values, [10, 110], i)).index).toBe(i)
  })

  it('takes its scale from all tokens but the first, and from the only one there is', () => {
    expect(largest(Float32Array.from([100, -90, 3, -4]), 2)).toBe(4)
    expect(largest(Float32Array.from([1, -9]), 2)).toBe(9)
  })
})

describe('the weave', () => {
  const rows = { first: 1, count: 2, height: 20 }
  const view: BlockView = {
    run: new Run(file, 'stored', null),
    layer: 0,
    head: 0,
    rows,
    chosen: 2,
    lit: null,
    scale: 1,
  }

  it('draws the ribbons of the rows on screen from 2 % on, the chosen row last', () => {
    const drawn = ribbons(view).map(({ to, from }) => [to, from])
    expect(drawn).toEqual([
      [1, 0],
      [1, 1],
      [2, 0],
      [2, 2],
    ])
  })

  it('leads a ribbon from the thread it reads to the thread that reads', () => {
    const ribbon = { to: 2, from: 0, weight: 1 }
    expect(ribbonY(ribbon, rows, 0)).toBe(middle(rows, 0))
    expect(ribbonY(ribbon, rows, 1)).toBe(middle(rows, 2))
  })

  it.each([110, 180, 320])('keeps the parts of a block apart at %i pixels', (width) => {
    const { attention, firstSum, mlp, secondSum } = blockShape(width)
    const places = [0, ...attention, firstSum, ...mlp, secondSum, width]
    expect(places).toEqual([...places].sort((a, b) => a - b))
  })

  it('knows which cells the mask hides', () => {
    expect(isMasked(1, 2, true, null)).toBe(true)
    expect(isMasked(2, 1, true, null)).toBe(false)
    expect(isMasked(2, 1, true, 1)).toBe(true) // a window of one sees itself alone
    expect(isMasked(0, 2, false, null)).toBe(false)
  })
})
