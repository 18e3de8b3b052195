import { describe, expect, it } from 'vitest'
import { parse, type Tensor } from '../src/cutawayfile'
import { beyond, blockShape, faintest, inSight, largest, middle, normTicks, ribbons, rowAt, rowOf, ribbonY, strokeAt, strokeX, type BlockView } from '../src/paint/weave'
import { binEdges, heights, rowsOf } from '../src/parts/drawing/sight.svelte'
import { blockAt, onMap } from '../src/paint/maps'
import { Slices } from '../src/slices.svelte'
import { isMasked } from '../src/paint/matrix'
import { part, row } from '../src/recording'
import { Run } from '../src/run'
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
  'blocks.0.mlp.hidden[-1:]': { shape: [1, 3], values: [1, -2, 3] },
})

describe('a run', () => {
  it('gives what the file holds, whole and by index', () => {
    const run = new Run(file, 'stored', null)
    expect([...run.reads(0, 1, 1)!].map((x) => Number(x.toFixed(2)))).toEqual([0.1, 0.9, 0])
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
  const rows = { first: 1, count: 2, height: 20, total: 3, edges: null, leads: 2 }
  const view: BlockView = {
    run: new Run(file, 'stored', null),
    layer: 0,
    head: 0,
    rows,
    chosen: 2,
    from: null,
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
    const ribbon = { to: 2, from: 1, weight: 1 }
    expect(ribbonY(ribbon, rows, 0)).toBe(middle(rows, 1))
    expect(ribbonY(ribbon, rows, 1)).toBe(middle(rows, 2))
  })

  it('lets a ribbon from a row out of sight begin at the edge behind which that lies', () => {
    expect([beyond(rows, 0), beyond(rows, 1), beyond(rows, 2), beyond(rows, 3)]).toEqual([-1, 0, 0, 1])
    expect(ribbonY({ to: 2, from: 0, weight: 1 }, rows, 0)).toBe(0)
    expect(ribbonY({ to: 2, from: 3, weight: 1 }, rows, 0)).toBe(40)
  })

  it('raises the least weight that gets a ribbon as rows grow thin', () => {
    const thin = { ...rows, height: 3 }
    expect(ribbons({ ...view, rows: thin, chosen: 0 }).every(({ weight }) => weight >= 0.1)).toBe(true)
    expect(faintest(thin)).toBeGreaterThan(faintest(rows))
  })

  it.each([110, 180, 320])('keeps the parts of a block apart at %i pixels', (width) => {
    const cross = view.run.blocks[0].attn
    for (const block of [{ parallel: false }, { parallel: false, cross }]) {
      const { chain } = blockShape(width, block)
      const places = [0, ...chain.flatMap(({ plate, sum }) => [...plate, sum]), width]
      expect(chain).toHaveLength(block.cross ? 3 : 2)
      expect(places).toEqual([...places].sort((a, b) => a - b))
    }
  })

  it.each([110, 320])('gives a parallel block one sum, and two plates that read the same at %i pixels', (width) => {
    const { attention, mlp, chain } = blockShape(width, { parallel: true })
    expect(chain).toHaveLength(1)
    expect(chain[0].plate).toEqual([attention[0], mlp[1]])
    expect(mlp[0]).toBe(attention[1])
    expect(chain[0].sum).toBeGreaterThan(mlp[1])
    expect(chain[0].sum).toBeLessThan(width)
  })

  it('marks a norm where the block has one', () => {
    const shape = blockShape(200, { parallel: false })
    const [first, second] = shape.chain.map(({ sum }) => sum)
    const near = (x: number) => expect.closeTo(x, -1)
    expect(normTicks(shape, ['pre'])).toEqual([near(shape.attention[0]), near(shape.mlp[0])])
    expect(normTicks(shape, ['post'])).toEqual([near(shape.attention[1]), near(shape.mlp[1])])
    expect(normTicks(shape, ['stream'])[0]).toBeGreaterThan(first) // after each sum, on the stream itself
    expect(normTicks(shape, ['stream'])[1]).toBeGreaterThan(second)
    expect(normTicks(blockShape(200, { parallel: true }), ['pre'])).toHaveLength(1) // both halves read one stream, normed once or twice
  })

  it('knows which cells the mask hides', () => {
    expect(isMasked(1, 2, true, null)).toBe(true)
    expect(isMasked(2, 1, true, null)).toBe(false)
    expect(isMasked(2, 1, true, 1)).toBe(true) // a window of one sees itself alone
    expect(isMasked(0, 2, false, null)).toBe(false)
  })
})

describe('a long text', () => {
  const room = { count: 20, height: 25 }

  it('grows thinner step by step until all of it is in sight, in bins where a token would be no pixel high', () => {
    expect(heights(20, room)).toEqual([25])
    const some = heights(100, room) as number[]
    expect(some.at(-1)).toBe(5)
    expect([...some].sort((a, b) => b - a)).toEqual(some)
    expect(heights(2000, room).at(-1)).toBeNull()
  })

  it('cuts bins as the record does, every token in one', () => {
    const edges = binEdges(2000)
    expect([edges.length, edges[0], edges[1], edges.at(-1)]).toEqual([65, 0, 31, 2000])
    const rows = rowsOf(2000, room, null, 0)
    expect([0, 30, 31, 1999].map((token) => rowOf(rows, token))).toEqual([0, 0, 1, 63])
    expect(rows.total * rows.height).toBeCloseTo(500)
  })

  it.each([0, 0.5, 33.3, 1980, 5000])('shows rows that fill the room, %d back from the end', (back) => {
    const rows = rowsOf(2000, room, 25, back)
    expect(rows.first).toBeGreaterThanOrEqual(0)
    expect(rows.first + rows.count).toBeLessThanOrEqual(2000)
    const seen = inSight(rows)
    expect(seen[0]).toBeLessThanOrEqual(rows.first)
    expect(seen.at(-1)! + 1).toBeGreaterThanOrEqual(rows.first + rows.count)
    for (const row of seen) expect(rowAt(rows, Math.min(499, Math.max(0, middle(rows, row))))).toBe(row)
  })

  const long = bytesOf(
    { ...header, tokens: Array.from({ length: 100 }, (_, i) => i) },
    { 'embed[-64:]': { shape: [64, 1], values: Array.from({ length: 64 }, (_, i) => 36 + i) } },
  )
  const source = (asked: string[], answer: (name: string, at: string, signal?: AbortSignal) => Promise<Tensor | null>) => ({
    record: 'r',
    tensor: (name: string, at: unknown, signal?: AbortSignal) => {
      asked.push(`${name}[${at}]`)
      return answer(name, String(at), signal)
    },
    explain: () => Promise.reject(new Error('not asked for here')),
  })
  const rest = () => new Promise((done) => setTimeout(done, 80))

  it('reads rows that came along, and asks for others with those around them', async () => {
    const asked: string[] = []
    const values = (at: string) => {
      const [a, b] = at.split(':').map(Number)
      return { shape: [b - a, 1], data: Float32Array.from({ length: b - a }, (_, i) => a + i) }
    }
    const run = new Run(long, 'live', source(asked, async (_, at) => values(at)))
    expect([...run.line('embed', 99)!]).toEqual([99])
    expect([...run.line('embed', 36)!]).toEqual([36])
    expect(run.line('embed', 35)).toBeUndefined()
    expect(run.line('embed', 5)).toBeUndefined()
    await rest()
    expect([...run.line('embed', 35)!]).toEqual([35])
    expect([...run.line('embed', 5)!]).toEqual([5])
    expect(run.line('embed', 5)).toBe(run.line('embed', 5)) // the same row each time
    expect(asked.sort()).toEqual(['embed[0:32]', 'embed[32:64]'])
  })

  it('does not wait for rows that are out of sight again', async () => {
    const asked: string[] = []
    const stopped: string[] = []
    const answer = (_: string, at: string, signal?: AbortSignal) =>
      new Promise<Tensor | null>((_done, fail) =>
        signal!.addEventListener('abort', () => {
          stopped.push(at)
          fail(new Error('stopped'))
        }),
      )
    const run = new Run(long, 'live', source(asked, answer))
    run.line('pattern', 3, 1)
    run.look({ first: 80, end: 90 }) // before anything was asked
    run.line('pattern', 85, 1)
    await rest()
    expect(asked).toEqual(['pattern[1,64:96]'])
    run.look({ first: 0, end: 10 })
    expect(stopped).toEqual(['1,64:96'])
    await rest()
    run.look({ first: 80, end: 90 })
    run.line('pattern', 85, 1)
    await rest()
    expect(asked).toHaveLength(2) // asked for again when it is looked at again
  })

  it('keeps no more than there is room for, what was read last longest', async () => {
    const asked: string[] = []
    const of = (name: string) => ({ shape: [4], data: Float32Array.from([name.charCodeAt(0), 0, 0, 0]) })
    const slices = new Slices(async (name) => (asked.push(name), of(name)), 40)
    for (const name of ['a', 'b']) slices.get(name, null)
    await rest()
    slices.get('a', null)
    slices.get('c', null)
    await rest()
    expect(slices.get('a', null)!.data[0]).toBe(97)
    expect(slices.get('b', null)).toBeUndefined()
    expect(asked).toEqual(['a', 'b', 'c'])
  })
})

describe('the map of the blocks', () => {
  it.each([12, 80])('has a place for each of %i', (layers) => {
    for (let layer = 0; layer < layers; layer++) {
      const [from, to] = onMap(layer, layers, 600)
      expect(to).toBeGreaterThan(from)
      expect(blockAt((from + to) / 2, layers, 600)).toBe(layer)
    }
    expect([blockAt(-5, layers, 600), blockAt(700, layers, 600)]).toEqual([0, layers - 1])
  })
})
