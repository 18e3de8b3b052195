// Numbers for other programs: CSV for a spreadsheet, NPZ for numpy.

import type { Tensor } from '../cutawayfile'

/** A spreadsheet opens about a million rows, and nobody reads as many. */
export const mostCells = 2_000_000

/** An axis of a table: its letter, and what stands at each of its places. */
export interface Axis {
  name: string
  places: string[]
}

/** One row for each number of all axes but the last, which runs across; the axes are named in the first row. */
export function csv(data: Float32Array, axes: Axis[]): string {
  const outer = axes.slice(0, -1)
  const { name, places } = axes.at(-1) ?? { name: 'value', places: [''] }
  const lines = [[...outer.map((axis) => axis.name), ...places.map((place) => quotedCell(`${name} ${place}`.trim()))].join()]
  const at = outer.map(() => 0)
  for (let from = 0; from < data.length; from += places.length) {
    const numbers = Array.from(data.subarray(from, from + places.length), plainNumber)
    lines.push([...at.map((index, i) => quotedCell(outer[i].places[index])), ...numbers].join())
    for (let i = outer.length - 1; i >= 0 && ++at[i] === outer[i].places.length; i--) at[i] = 0
  }
  return lines.join('\r\n') + '\r\n'
}

/** The shortest decimal that is this very float32. */
export function plainNumber(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf'
  for (let digits = 6; digits < 9; digits++) {
    const text = String(Number(value.toPrecision(digits)))
    if (Math.fround(Number(text)) === value) return text
  }
  return String(Number(value.toPrecision(9)))
}

/** Quoted, as RFC 4180 has it. */
const quotedCell = (text: string) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)

/** A .npz file: a zip archive, not compressed, with one .npy file for each array. */
export function npz(tensors: { [name: string]: Tensor }): Uint8Array<ArrayBuffer> {
  return zip(Object.entries(tensors).map(([name, tensor]) => [`${name}.npy`, npy(tensor)]))
}

/** numpy's own format, version 1.0: magic, length of the header, the header as a Python literal, the numbers. */
export function npy({ shape, data }: Tensor): Uint8Array<ArrayBuffer> {
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(', ')})`
  const story = `{'descr': '<f4', 'fortran_order': False, 'shape': ${tuple}, }`
  const header = story.padEnd(Math.ceil((story.length + 11) / 64) * 64 - 11) + '\n' // the numbers begin at a multiple of 64
  const out = new Uint8Array(10 + header.length + 4 * data.length)
  out.set([0x93, ...new TextEncoder().encode('NUMPY'), 1, 0, header.length & 255, header.length >> 8])
  out.set(new TextEncoder().encode(header), 10)
  const view = new DataView(out.buffer, 10 + header.length)
  data.forEach((value, i) => view.setFloat32(4 * i, value, true))
  return out
}

/** A zip archive of files that are stored as they are (PKWARE's APPNOTE, 4.3). */
function zip(files: [string, Uint8Array][]): Uint8Array<ArrayBuffer> {
  const utf8 = 0x0800
  const parts: Uint8Array[] = []
  const index: Uint8Array[] = []
  let at = 0
  for (const [name, content] of files) {
    const spelt = new TextEncoder().encode(name)
    // versions, flags, method 0 (stored), time and date 1980-01-01, checksum, both sizes, length of the name
    const about = [...u16(20), ...u16(utf8), ...u16(0), ...u16(0), ...u16(0x21), ...u32(crc32(content)), ...u32(content.length), ...u32(content.length), ...u16(spelt.length), ...u16(0)]
    parts.push(Uint8Array.from([...u32(0x04034b50), ...about]), spelt, content)
    index.push(Uint8Array.from([...u32(0x02014b50), ...u16(20), ...about, ...u16(0), ...u16(0), ...u16(0), ...u32(0), ...u32(at)]), spelt)
    at += 30 + spelt.length + content.length
  }
  const size = index.reduce((sum, part) => sum + part.length, 0)
  const end = Uint8Array.from([...u32(0x06054b50), ...u16(0), ...u16(0), ...u16(files.length), ...u16(files.length), ...u32(size), ...u32(at), ...u16(0)])
  const out = new Uint8Array(at + size + end.length)
  let to = 0
  for (const part of [...parts, ...index, end]) {
    out.set(part, to)
    to += part.length
  }
  return out
}

const u16 = (n: number) => [n & 255, (n >> 8) & 255]
const u32 = (n: number) => [...u16(n & 0xffff), ...u16(n >>> 16)]

const table = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1
  return n
})

function crc32(bytes: Uint8Array): number {
  let sum = 0xffffffff
  for (const byte of bytes) sum = (sum >>> 8) ^ table[(sum ^ byte) & 255]
  return ~sum >>> 0
}
