// Reads a .cutaway file: a safetensors container whose metadata holds one JSON string, "cutaway".
// Layout: 8 bytes little-endian header length, that many bytes of JSON, then the tensors' bytes.

export interface Tensor {
  shape: number[]
  data: Float32Array
}

export interface Piece {
  id: number
  text: string
  special?: boolean
}

export interface RecordModel {
  name: string
  family?: string
  parameters?: number
  dtype?: string
  fingerprint?: string
  /** Largest difference of the logits from the reference implementation, where it was measured. */
  verified?: number | null
}

export interface RecordHeader {
  format: number
  version?: string
  model: RecordModel
  spec: Spec
  text: string | null
  tokens: number[]
  pieces?: Piece[]
  /** `notes`: sentences a reader should know, such as a text cut to the context. */
  settings?: { notes?: string[]; [name: string]: unknown }
  edits?: unknown[]
  axes?: { [name: string]: string[] }
}

/** The parts of a spec (src/cutaway/model/spec.py) that the page reads. Everything else passes through untouched. */
export interface Spec {
  stem: { scale: number; positions: { kind: 'learned' | 'sinusoid' } | null; norm: NormSpec | null }
  stack: { width: number; blocks: BlockSpec[]; final_norm: NormSpec | null; relative: object | null }
  head: { size: number; tied: boolean; bias: boolean; scale: number; softcap: number | null }
  context: number
}
export interface NormSpec {
  kind: 'layer' | 'rms'
  eps: number
}
export interface AttentionSpec {
  heads: number
  kv_heads: number
  width: number
  scale: number
  /** Which of the projections q, k, v, o have one. */
  bias: string
  causal: boolean
  window: number | null
  rope: { base: number; width: number; scaling: object | null } | null
  qk_norm: 'head' | 'full' | null
  softcap: number | null
}
export interface BlockSpec {
  attn: AttentionSpec
  mlp: { hidden: number; activation: string; gated: boolean; bias: boolean }
  norm: NormSpec
  /** Where norms stand: before a branch reads, after it has worked, or on the stream itself. */
  slots: ('pre' | 'post' | 'stream')[]
  parallel: boolean
  shared_norm: boolean
}

export interface RecordFile {
  header: RecordHeader
  names: string[]
  tensor(name: string): Tensor | null
}

const bytesPer: { [dtype: string]: number } = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, U8: 1, I8: 1, BOOL: 1 }

export class NotACutawayFile extends Error {}

export function parse(bytes: ArrayBuffer): RecordFile {
  if (bytes.byteLength < 8) throw new NotACutawayFile('shorter than a header')
  const length = Number(new DataView(bytes).getBigUint64(0, true))
  if (length > bytes.byteLength - 8) throw new NotACutawayFile('the header is longer than the file')
  const entries = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, length)))
  const meta = entries.__metadata__?.cutaway
  if (typeof meta !== 'string') throw new NotACutawayFile('no "cutaway" metadata')
  const header = JSON.parse(meta) as RecordHeader
  if (header.format !== 1) throw new NotACutawayFile(`format ${header.format}; this page reads format 1`)
  delete entries.__metadata__

  const start = 8 + length
  const read = new Map<string, Tensor>()
  return {
    header,
    names: Object.keys(entries),
    tensor(name) {
      const known = read.get(name)
      if (known) return known
      const entry = entries[name] as { dtype: string; shape: number[]; data_offsets: [number, number] } | undefined
      if (!entry) return null
      const [from, to] = entry.data_offsets
      const count = entry.shape.reduce((a, b) => a * b, 1)
      const size = bytesPer[entry.dtype]
      if (!size || to - from !== count * size || start + to > bytes.byteLength) throw new NotACutawayFile(name)
      const tensor = { shape: entry.shape, data: toFloat32(bytes.slice(start + from, start + to), entry.dtype, count) }
      read.set(name, tensor)
      return tensor
    },
  }
}

/** Every stored type as float32. Each bfloat16 and float16 is a float32 exactly; ids are small enough to be exact too. */
function toFloat32(bytes: ArrayBuffer, dtype: string, count: number): Float32Array {
  const out = new Float32Array(count)
  const view = new DataView(bytes)
  switch (dtype) {
    case 'F32':
      return new Float32Array(bytes)
    case 'BF16': {
      const words = new Uint32Array(out.buffer)
      for (let i = 0; i < count; i++) words[i] = view.getUint16(2 * i, true) << 16
      return out
    }
    case 'F16':
      for (let i = 0; i < count; i++) out[i] = half(view.getUint16(2 * i, true))
      return out
    case 'F64':
      for (let i = 0; i < count; i++) out[i] = view.getFloat64(8 * i, true)
      return out
    case 'I64':
      for (let i = 0; i < count; i++) out[i] = Number(view.getBigInt64(8 * i, true))
      return out
    case 'I32':
      for (let i = 0; i < count; i++) out[i] = view.getInt32(4 * i, true)
      return out
    case 'I8':
      for (let i = 0; i < count; i++) out[i] = view.getInt8(i)
      return out
    default:
      for (let i = 0; i < count; i++) out[i] = view.getUint8(i)
      return out
  }
}

function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}
