// The page's side of the server's API (src/cutaway/serve). Same origin; the cookie is the key.

import { parse, type Tensor } from './cutawayfile'
import type { Task } from './recording'
import { enclosure, unpacked } from './takeaway/pack'

export interface ModelEntry {
  id: string
  name: string
  parameters: number
  layers: number
  width: number
  heads: number
  vocabulary: number
  task: Task
  /** Of the pictures it reads, where it does. */
  picture: { side: number; channels: number } | null
  /** Of the sounds it hears, where it does: positions and mel bins. */
  sound: { length: number; bins: number } | null
  context: number
  dtype: string
  source: string
  verified: number | null
}

export interface ServerEvent {
  state: 'starting' | 'ready' | 'busy' | 'failed'
  stage?: string
  message?: string
  /** The download under way, or just over, while there is one. */
  fetch?: Fetching
}

/** A model of the hub that can be fetched by name. `bytes`: about what is downloaded. */
export interface Offer {
  id: string
  name: string
  family: string
  parameters: number
  bytes: number
  what: string
}

export interface Fetching {
  model: string
  bytes: number
  /** Null until the hub has said it. */
  total: number | null
  done?: true
  error?: string
}

/** `at` null: the whole tensor; else one entry per axis from the left, such as 3 or "3,5:9". */
export interface Want {
  name: string
  at: At
}
export type At = number | string | null

/** How one number of a record was made (src/cutaway/look/explain). Numbers that JSON lacks come as words. */
export interface Explanation {
  cell: string
  value: Loose
  rule: string
  terms: { factors: { cell: string; value: Loose }[]; value: Loose }[]
  term: 'product' | 'square' | 'exp' | 'value'
  steps: { op: string; by: Loose | null; cell: string | null; label: string | null; value: Loose }[]
  total: Loose
  difference: Loose
}
export type Loose = number | '-inf' | 'inf' | 'nan'

/** The server answered, with a refusal: a sentence naming the thing and one naming the fix. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly fix: string,
  ) {
    super(message)
  }
}

/** No answer came at all. */
export class Unreachable extends Error {}

async function ask(path: string, init?: RequestInit): Promise<Response> {
  let response: Response
  try {
    response = await fetch(path, init)
  } catch (error) {
    if (init?.signal?.aborted) throw error
    throw new Unreachable()
  }
  if (response.ok) return response
  let told: { message?: string; fix?: string } = {}
  try {
    told = (await response.json()).error ?? {}
  } catch {
    // not every refusal carries JSON: a proxy's, for one
  }
  throw new Refusal(response.status, told.message ?? '', told.fix ?? '')
}

export async function models(): Promise<ModelEntry[]> {
  const response = await ask('api/models')
  if (!response.headers.get('content-type')?.includes('json')) throw new Unreachable() // a plain file server
  return response.json()
}

export async function offers(): Promise<Offer[]> {
  return (await ask('api/offers')).json()
}

/** Starts the download of an offered model, or goes on with it. */
export const fetchModel = (model: string) => post('api/fetch', { model })
/** Stops the download, keeping what has come; also dismisses one that is over. */
export const stopFetching = () => post('api/fetch/cancel', {})
/** Gives up the loading of a model. */
export const stopLoading = () => post('api/load/cancel', {})

async function post(path: string, body: object): Promise<void> {
  await ask(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
}

export async function vocabulary(model: string): Promise<string[]> {
  return (await ask(`api/models/${encodeURIComponent(model)}/vocabulary`)).json()
}

/** What a model is given; where a decoder writes after it, with the tokens it has written. */
export type Input = { text: string } | { tokens: number[] } | { image: Blob } | { text: string; target: number[] } | { sound: File; target: number[] }

const packed = async (input: Input) =>
  Object.fromEntries(await Promise.all(Object.entries(input).map(async ([name, value]) => [name, value instanceof Blob ? await base64(value) : value])))

/** Base64, without the address before it. */
async function base64(blob: Blob): Promise<string> {
  const reader = new FileReader()
  const read = new Promise<string>((done, failed) => {
    reader.onload = () => done(String(reader.result))
    reader.onerror = () => failed(reader.error)
  })
  reader.readAsDataURL(blob)
  return (await read).split(',')[1] ?? ''
}

export async function run(
  model: string,
  input: Input,
  want: Want[],
  signal: AbortSignal,
): Promise<{ bytes: ArrayBuffer; record: string }> {
  const response = await ask('api/run', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model, ...(await packed(input)), want }),
    signal,
  })
  return { bytes: await response.arrayBuffer(), record: response.headers.get('x-record') ?? '' }
}

export async function tensor(record: string, name: string, at: At, signal?: AbortSignal): Promise<Tensor | null> {
  const query = new URLSearchParams({ name })
  if (at !== null) query.set('at', String(at))
  try {
    const response = await ask(`api/records/${encodeURIComponent(record)}/tensor?${query}`, { signal })
    const shape = (response.headers.get('x-shape') ?? '').split(',').filter(Boolean).map(Number)
    return { shape, data: new Float32Array(await response.arrayBuffer()) }
  } catch (error) {
    if (error instanceof Refusal && error.status === 404) return null
    throw error
  }
}

export async function explain(record: string, cell: string): Promise<Explanation> {
  return (await ask(`api/records/${encodeURIComponent(record)}/explain?${new URLSearchParams({ cell })}`)).json()
}

/** Two kept runs side by side (src/cutaway/look/comparison.py). */
export interface Comparison {
  parts_at: number | null
  at: [number, number]
  cosine: number[] | null
  distance: number[] | null
  divergence: number | null
  moved: number | null
  changes: { id: number; first: number; second: number }[] | null
  notes: string[]
}

export async function compare(first: string, second: string, at: [number, number]): Promise<Comparison> {
  return (await ask(`api/compare?${new URLSearchParams({ first, second, at: at.join() })}`)).json()
}

/** Calls `heard` for each event; `silence` when the stream breaks. Returns how to stop listening. */
export function listen(heard: (event: ServerEvent) => void, silence: () => void): () => void {
  const stream = new EventSource('api/events')
  stream.onmessage = (message) => heard(JSON.parse(message.data) as ServerEvent)
  stream.onerror = () => {
    stream.close()
    silence()
  }
  return () => stream.close()
}

/** The whole file of a record, with the derived tensors that match; "shown": those that the opened stops read. */
export async function file(record: string, include: string[]): Promise<ArrayBuffer> {
  const query = new URLSearchParams(include.map((glob) => ['include', glob]))
  return (await ask(`api/records/${encodeURIComponent(record)}/file?${query}`)).arrayBuffer()
}

/** A file that was built with the page, as text. */
export async function part(name: string): Promise<string> {
  return (await ask(name)).text()
}

/** The run inside this page, where it stands alone; else the one its document brought. Rejects where it brought none. */
export async function stored(): Promise<{ bytes: ArrayBuffer; vocabulary: string[] }> {
  const inside = enclosure()
  if (inside) {
    const bytes = await unpacked(inside.textContent)
    return { bytes, vocabulary: parse(bytes).header.vocabulary ?? [] }
  }
  if (!globalThis.storedRun) throw new Error('no stored run in this document')
  const vocabulary = await ask('stored/first.vocabulary.json')
  return { bytes: globalThis.storedRun, vocabulary: (await vocabulary.json()) as string[] }
}
