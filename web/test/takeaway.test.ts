import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { parse, write, type RecordHeader } from '../src/cutawayfile'
import { Run } from '../src/run'
import { fileName } from '../src/takeaway/download'
import { named } from '../src/takeaway/names'
import { csv, npy, npz, plainNumber } from '../src/takeaway/numbers'
import { packed, unpacked } from '../src/takeaway/pack'
import { literal, runIn } from '../src/takeaway/python'
import { colorOf, escaped, fontParts, SvgPen } from '../src/takeaway/svgpen'
import { floats, rawFile } from './file'

const stored = readFileSync(new URL('../stored/first.cutaway', import.meta.url))
const storedBytes = () => new Uint8Array(stored).buffer

describe('a .cutaway file written in the page', () => {
  it('reads back with every byte of every tensor, whatever their types', () => {
    const header = { format: 1, model: { name: 'm' }, text: 'é \u2028 "', tokens: [1], spec: {} } as unknown as RecordHeader
    const made = parse(
      rawFile(header, {
        ids: { dtype: 'I32', shape: [3], bytes: [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0] },
        half: { dtype: 'BF16', shape: [1], bytes: [0xc0, 0x3f] },
        wide: { dtype: 'I64', shape: [1], bytes: [9, 0, 0, 0, 0, 0, 0, 0] },
        x: { dtype: 'F32', shape: [2], bytes: floats([1.5, -Infinity]) },
      }),
    )
    const bytes = write({ ...made.header, explanations: { 'x[0]': { value: 1 } } }, new Map(made.names.map((name) => [name, made.entry(name)])))
    const again = parse(bytes)
    expect(again.header).toEqual({ ...header, explanations: { 'x[0]': { value: 1 } } })
    expect([...again.names].sort()).toEqual(['half', 'ids', 'wide', 'x'])
    for (const name of made.names) expect(again.entry(name)).toEqual(made.entry(name))
    expect(Number(new DataView(bytes).getBigUint64(0, true)) % 8).toBe(0)
    const offset = again.entry('wide').bytes.byteOffset
    expect(offset % 8).toBe(0) // the widest first: aligned
  })

  it('comes through gzip and base64 unchanged', async () => {
    const text = await packed(storedBytes())
    expect(text).toMatch(/^H4sI[A-Za-z0-9+/]+=*$/)
    expect(new Uint8Array(await unpacked(text))).toEqual(new Uint8Array(stored))
  })

  it('has its place in the page that stands alone named alike on both sides', () => {
    const place = "'<!--the run-->'"
    expect(readFileSync(new URL('../standalone.ts', import.meta.url), 'utf8')).toContain(place)
    expect(readFileSync(new URL('../src/takeaway/whole.ts', import.meta.url), 'utf8')).toContain(place)
    expect(readFileSync(new URL('../../src/cutaway/look/html.py', import.meta.url), 'utf8')).toContain(place.replaceAll("'", '"'))
  })
})

describe('numbers for other programs', () => {
  it('writes each float32 as the shortest decimal that is it', () => {
    for (const value of [0.1, 1 / 3, 1e-30, 16777216, -2.5]) {
      const float = Math.fround(value)
      expect(Math.fround(Number(plainNumber(float)))).toBe(float)
    }
    expect(plainNumber(Math.fround(0.1))).toBe('0.1')
    expect([Infinity, -Infinity, NaN].map(plainNumber)).toEqual(['inf', '-inf', 'nan'])
  })

  it('heads a CSV with its axes, and quotes what needs it', () => {
    const axes = [
      { name: 'H', places: ['0', '1'] },
      { name: 'T', places: ['0 a', '1 ","'] },
    ]
    expect(csv(Float32Array.from([1, 2, 3, 4]), axes)).toBe('H,T 0 a,"T 1 "",""\"\r\n0,1,2\r\n1,3,4\r\n')
    expect(csv(Float32Array.from([7]), [])).toBe('value\r\n7\r\n')
  })

  it('begins an array of numpy’s at a multiple of 64', () => {
    const bytes = npy({ shape: [2], data: Float32Array.from([1, -2]) })
    const length = bytes[8] + 256 * bytes[9]
    expect((10 + length) % 64).toBe(0)
    expect(new TextDecoder().decode(bytes.subarray(10, 10 + length))).toMatch(/^\{'descr': '<f4', .*'shape': \(2,\), \} *\n$/)
    expect(new DataView(npz({ x: { shape: [2], data: Float32Array.from([1, -2]) } }).buffer).getUint32(0, true)).toBe(0x04034b50)
  })

  it('names what a run holds, with its axes', () => {
    const names = named(new Run(storedBytes(), 'stored', null))
    const pattern = names.find((one) => one.name === 'blocks.3.attn.pattern')!
    expect(pattern.axes).toEqual(['H', 'T', 'T'])
    expect(pattern.shape).toEqual([6, 8, 8])
    expect(names.some((one) => one.name.endsWith('attn.q'))).toBe(false) // the stored run does not bring it
  })
})

describe('Python', () => {
  it('quotes any text, hiding nothing', () => {
    expect(literal('a "b" \\ \n\t')).toBe('"a \\"b\\" \\\\ \\n\\t"')
    expect(literal('\u202e\u200b\0😀é')).toBe('"\\u202e\\u200b\\u0000😀é"')
    expect(literal('\u{e0001}\ud800')).toBe('"\\U000e0001\\ud800"')
  })

  it('names the text that was typed, and the tokens where anything was drawn', () => {
    const run = new Run(storedBytes(), 'stored', null)
    expect(runIn(run, true)).toContain(`model.run(${JSON.stringify(run.header.text)})`)
    expect(runIn(run, false)).toContain(`model.run(tokens=[${run.header.tokens.join(', ')}])`)
  })
})

describe('an SVG', () => {
  const pen = () => new SvgPen({ font: '', measureText: (text: string) => ({ width: 7 * text.length, fontBoundingBoxAscent: 8, fontBoundingBoxDescent: 2 }) as TextMetrics })

  it('keeps text as text, escaped, and names its typefaces', () => {
    const p = pen()
    p.font = `italic 500 15px 'Source Serif 4', Georgia, serif`
    p.fillStyle = 'rgb(1 2 3)'
    p.textBaseline = 'middle'
    p.fillText('<b>&"\u0000', 10, 20)
    const svg = p.document(100, 50, 'A & B', '<script>')
    expect(svg).toContain('<title>A &amp; B</title>')
    expect(svg).toContain('<desc>&lt;script&gt;</desc>')
    expect(svg).toContain(`font-family="'Source Serif 4', Georgia, serif" font-size="15" font-weight="500" font-style="italic"`)
    expect(svg).toContain('y="23"')
    expect(svg).toContain('fill="rgb(1,2,3)">&lt;b&gt;&amp;&quot;\ufffd</text>')
  })

  it('makes one path of rectangles of one colour, and keeps their order among others', () => {
    const p = pen()
    p.fillStyle = '#111111'
    p.fillRect(0, 0, 2, 2)
    p.fillRect(4, 0, 2, 2)
    p.fillStyle = '#222222'
    p.fillRect(0, 0, 1, 1)
    p.globalAlpha = 0.5
    p.fillRect(0, 0, 1, 1)
    p.fillRect(0, 0, 1, 1) // on top of each other they are darker: two
    const paths = p.document(9, 9, '', '').match(/<path[^>]*>/g)!
    expect(paths).toHaveLength(4)
    expect(paths[0]).toContain('M0 0h2v2h-2zM4 0h2v2h-2z')
  })

  it('places, clips and restores', () => {
    const p = pen()
    p.save()
    p.translate(5, 6)
    p.beginPath()
    p.rect(0, 0, 3, 3)
    p.clip()
    p.beginPath()
    p.arc(1, 1, 1, 0, 2 * Math.PI)
    p.fill()
    p.restore()
    p.strokeRect(0, 0, 1, 1)
    const svg = p.document(9, 9, '', '')
    expect(svg).toContain('<clipPath id="clip1"><path d="M0 0h3v3h-3z" transform="translate(5 6)"/></clipPath>')
    expect(svg).toMatch(/<g clip-path="url\(#clip1\)">\n<path d="M2 1A1 1 0 0 1 0 1A1 1 0 0 1 2 1" [^>]*transform="translate\(5 6\)"\/>\n<\/g>\n<rect [^>]*stroke-width="1"\/>/)
  })

  it('reads colours and typefaces as style sheets compute them', () => {
    expect(colorOf('rgba(1, 2, 3, 0.5)')).toEqual({ color: 'rgb(1,2,3)', alpha: 0.5 })
    expect(colorOf('color(srgb 0 0.5 1 / 0.25)')).toEqual({ color: 'rgb(0,128,255)', alpha: 0.25 })
    expect(colorOf('#abcdef')).toEqual({ color: '#abcdef', alpha: 1 })
    expect(fontParts('normal 700 12.5px/1.4 A, serif')).toEqual({ style: 'normal', weight: '700', size: 12.5, family: 'A, serif' })
    expect(escaped('a\u0007b\ud800')).toBe('a\ufffdb\ufffd')
    expect(fileName('stories', 'Once <upon> / "a"', 'The draw')).toBe('stories-once-upon-a-the-draw')
  })
})
