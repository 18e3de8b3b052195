// A file inside a page, as text: gzip, then base64. The same as gzip.compress and base64.b64encode in Python.

export async function packed(bytes: BlobPart): Promise<string> {
  const squeezed = new Uint8Array(await through(bytes, new CompressionStream('gzip')))
  let characters = ''
  for (let at = 0; at < squeezed.length; at += 0x8000) characters += String.fromCharCode(...squeezed.subarray(at, at + 0x8000))
  return btoa(characters)
}

export function unpacked(text: string): Promise<ArrayBuffer> {
  return through(Uint8Array.from(atob(text), (character) => character.charCodeAt(0)), new DecompressionStream('gzip'))
}

const through = (bytes: BlobPart, change: CompressionStream | DecompressionStream): Promise<ArrayBuffer> =>
  new Response(new Blob([bytes]).stream().pipeThrough(change)).arrayBuffer()

/** The run that this page holds inside itself, when it is a page that stands alone. */
export const enclosure = (): HTMLElement | null => globalThis.document?.getElementById('run') ?? null
