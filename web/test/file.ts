// Makes .cutaway files to read in tests.

export interface Raw {
  dtype: string
  shape: number[]
  bytes: number[]
}

export function rawFile(header: object, tensors: { [name: string]: Raw }): ArrayBuffer {
  const entries: { [name: string]: unknown } = { __metadata__: { cutaway: JSON.stringify(header) } }
  const body: number[] = []
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    entries[name] = { dtype, shape, data_offsets: [body.length, body.length + bytes.length] }
    body.push(...bytes)
  }
  const json = new TextEncoder().encode(JSON.stringify(entries))
  const out = new Uint8Array(8 + json.length + body.length)
  new DataView(out.buffer).setBigUint64(0, BigInt(json.length), true)
  out.set(json, 8)
  out.set(body, 8 + json.length)
  return out.buffer
}

export const floats = (values: number[]) => [...new Uint8Array(Float32Array.from(values).buffer)]

export function bytesOf(header: object, tensors: { [name: string]: { shape: number[]; values: number[] } }): ArrayBuffer {
  const raw = Object.entries(tensors).map(([name, { shape, values }]) => [name, { dtype: 'F32', shape, bytes: floats(values) }])
  return rawFile(header, Object.fromEntries(raw))
}
