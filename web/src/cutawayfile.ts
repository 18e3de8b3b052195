// Reads and writes a .cutaway file: a safetensors container whose metadata holds one JSON string, "cutaway".
// Layout: 8 bytes little-endian header length, that many bytes of JSON, then the tensors' bytes.

export interface Tensor {
  shape: number[]
  data: Float32Array
}

export interface Piece {
  /** None where no token stands: in a picture. */
  id?: number
  text: string
  special?: boolean
  /** Of a patch of a picture: where it was cut out. */
  row?: number
  column?: number
}

interface RecordModel {
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
  spec: Spec | TwoStacks
  text: string | null
  tokens: number[]
  pieces?: Piece[]
  /** What an encoder read, while `tokens` are what the decoder behind it read; none of a sound. */
  source?: number[]
  source_pieces?: Piece[]
  /**
   * `notes`: sentences a reader should know, such as a text cut to the context. `masks`: where the masks are, of a model
   * that fills them. `begun`: how many tokens stand before what a decoder writes by itself. `exclusive`: of a classifier, whether its classes exclude each other. `image`: how a picture's grey
   * levels became numbers: (level × scale − mean) ÷ std.
   */
  settings?: {
    notes?: string[]
    masks?: number[]
    begun?: number
    exclusive?: boolean
    image?: { scale: number; mean: number[]; std: number[] }
    [name: string]: unknown
  }
  edits?: unknown[]
  axes?: { [name: string]: string[] }
  /** What each logit stands for, token or class, in a file that is to be read far from its model. */
  vocabulary?: string[]
  /** How numbers that a reader had opened were made (src/cutaway/look/explain). */
  explanations?: { [cell: string]: unknown }
}

/** The parts of a spec (src/cutaway/model/spec.py) that the page reads. Everything else passes through untouched. */
export interface Spec {
  stem: Stem
  stack: { width: number; blocks: BlockSpec[]; final_norm: NormSpec | null; relative: object | null }
  head: {
    size: number
    tied: boolean
    bias: boolean
    scale: number
    softcap: number | null
    /** A layer before the unembedding: its activation, and the norm after that. */
    transform: [string, NormSpec | null] | null
    /** Only one token is read, the first or the last, or the first two. */
    pool: 'first' | 'first_two' | 'last' | null
  }
  context: number
}
/** An encoder and a decoder, joined by cross-attention. */
export interface TwoStacks {
  source: Stem
  encoder: Spec['stack']
  target: Stem
  decoder: Spec['stack']
  head: Spec['head']
  context: number
}
/** Tokens by their rows of a table, or, where `patch` is, patches of a picture by one matrix. */
interface Stem {
  vocabulary: number
  scale: number
  positions: { kind: 'learned' | 'sinusoid' } | null
  segments: number
  norm: NormSpec | null
  /** Pixels of a patch's side, and of the whole picture's. */
  patch?: number
  image: number
  channels: number
  /** Learned vectors that stand before the patches. */
  extra_tokens: number
  /** Of a sound: the bands of its spectrogram; and how many positions there are, of two frames each. */
  bins?: number
  length: number
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
  /** What reads the encoder's result, in a decoder behind one. */
  cross?: AttentionSpec | null
  mlp: { hidden: number; activation: string; gated: boolean; bias: boolean }
  norm: NormSpec
  /** Where norms stand: before a branch reads, after it has worked, or on the stream itself. */
  slots: ('pre' | 'post' | 'stream')[]
  parallel: boolean
  shared_norm: boolean
}

/** What stands before a stack's names in the record: nothing where there is one stack only. */
export type Side = '' | 'encoder.' | 'decoder.'

export const isTwoStacks = (spec: Spec | TwoStacks | undefined): spec is TwoStacks => Boolean(spec && 'decoder' in spec)

/** One stack of a record, and what it read. */
export function sideOf({ spec, tokens, pieces, source, source_pieces }: RecordHeader, side: Side): { spec: Spec; tokens: number[]; pieces: Piece[] } {
  if (!isTwoStacks(spec)) return { spec, tokens, pieces: pieces ?? [] }
  const { head, context } = spec
  if (side === 'encoder.') {
    const pieces = spec.source.bins ? moments(spec.source.length) : (source_pieces ?? [])
    return { spec: { stem: spec.source, stack: spec.encoder, head, context }, tokens: source ?? [], pieces }
  }
  return { spec: { stem: spec.target, stack: spec.decoder, head, context }, tokens, pieces: pieces ?? [] }
}

/** Seconds of a sound to each of its positions: two frames of ten milliseconds. */
export const moment = 0.02
const moments = (count: number): Piece[] => Array.from({ length: count }, (_, t) => ({ text: `${(t * moment).toFixed(2)} s` }))

/** A tensor as the file has it. */
export interface Entry {
  dtype: string
  shape: number[]
  bytes: Uint8Array
}

export interface RecordFile {
  header: RecordHeader
  names: string[]
  tensor(name: string): Tensor | null
  entry(name: string): Entry
}

const bytesPer: { [dtype: string]: number } = { F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, U8: 1, I8: 1, BOOL: 1 }

/** `kind`: it is no safetensors file, one of something else, cut short, of a later format, or contradicts itself. */
export class NotACutawayFile extends Error {
  constructor(
    message: string,
    readonly kind: 'other' | 'story' | 'short' | 'format' | 'impossible' = 'impossible',
  ) {
    super(message)
  }
}

interface Described {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

export function parse(bytes: ArrayBuffer): RecordFile {
  if (bytes.byteLength < 8) throw new NotACutawayFile('shorter than a header', 'other')
  const length = Number(new DataView(bytes).getBigUint64(0, true))
  if (length > 2 ** 27) throw new NotACutawayFile('no safetensors header', 'other')
  if (length > bytes.byteLength - 8) throw new NotACutawayFile('the header is longer than the file', 'short')
  const { __metadata__: story, ...entries } = readJson(new Uint8Array(bytes, 8, length), 'other') as {
    __metadata__?: { cutaway?: unknown }
    [name: string]: unknown
  }
  if (typeof story?.cutaway !== 'string') throw new NotACutawayFile('no "cutaway" metadata', 'story')
  const header = readJson(new TextEncoder().encode(story.cutaway), 'story') as RecordHeader
  if (header.format !== 1) throw new NotACutawayFile(`format ${header.format}; this page reads format 1`, 'format')

  const start = 8 + length
  const described = new Map<string, Described>()
  for (const [name, entry] of Object.entries(entries)) {
    const { dtype, shape, data_offsets: offsets } = entry as Described
    if (!Array.isArray(shape) || !Array.isArray(offsets)) throw new NotACutawayFile(name)
    const count = shape.reduce((a, b) => a * b, 1)
    if (offsets[1] - offsets[0] !== count * bytesPer[dtype] || offsets[0] < 0) throw new NotACutawayFile(name)
    if (start + offsets[1] > bytes.byteLength) throw new NotACutawayFile(name, 'short')
    described.set(name, { dtype, shape, data_offsets: offsets })
  }
  const entry = (name: string): Entry => {
    const { dtype, shape, data_offsets: [from, to] } = described.get(name)!
    return { dtype, shape, bytes: new Uint8Array(bytes, start + from, to - from) }
  }
  const read = new Map<string, Tensor>()
  return {
    header,
    names: [...described.keys()],
    entry,
    tensor(name) {
      const known = read.get(name)
      if (known) return known
      if (!described.has(name)) return null
      const { dtype, shape, bytes: its } = entry(name)
      const data = toFloat32(its.slice().buffer, dtype, shape.reduce((a, b) => a * b, 1))
      const tensor = { shape, data }
      read.set(name, tensor)
      return tensor
    },
  }
}

function readJson(bytes: Uint8Array, kind: 'other' | 'story'): object {
  try {
    const found: unknown = JSON.parse(new TextDecoder().decode(bytes))
    if (typeof found === 'object' && found !== null) return found
  } catch {
    // what is no JSON is no header
  }
  throw new NotACutawayFile('a header that is no JSON', kind)
}

/** The file of a record: what `parse` reads, and cutaway.open() in Python. */
export function write(header: RecordHeader, entries: Map<string, Entry>): ArrayBuffer {
  // The widest numbers first, so that every tensor begins at a multiple of its width.
  const ordered = [...entries].sort(([, a], [, b]) => bytesPer[b.dtype] - bytesPer[a.dtype])
  const described: { [name: string]: unknown } = { __metadata__: { cutaway: JSON.stringify(header) } }
  let size = 0
  for (const [name, { dtype, shape, bytes }] of ordered) {
    described[name] = { dtype, shape, data_offsets: [size, size + bytes.length] }
    size += bytes.length
  }
  const json = new TextEncoder().encode(JSON.stringify(described))
  const length = Math.ceil(json.length / 8) * 8
  const out = new Uint8Array(8 + length + size).fill(0x20, 8, 8 + length) // spaces make the header's length even
  new DataView(out.buffer).setBigUint64(0, BigInt(length), true)
  out.set(json, 8)
  let at = 8 + length
  for (const [, { bytes }] of ordered) {
    out.set(bytes, at)
    at += bytes.length
  }
  return out.buffer
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
