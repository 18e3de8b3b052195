// A file inside a page, as text: its bytes in planes, then gzip, then base64; as src/cutaway/look/html.py does it.
//
// In planes: first the first bytes of every four, then the second, and so on. The exponents of floats, which are much
// alike, come to stand together, and the file packs a tenth smaller.

export async function packed(bytes: ArrayBuffer): Promise<string> {
  const squeezed = new Uint8Array(await through(reordered(bytes, (i, k, fours) => [4 * i + k, k * fours + i]), new CompressionStream('gzip')))
  let characters = ''
  for (let at = 0; at < squeezed.length; at += 0x8000) characters += String.fromCharCode(...squeezed.subarray(at, at + 0x8000))
  return btoa(characters)
}

export async function unpacked(text: string): Promise<ArrayBuffer> {
  const squeezed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0))
  const planes = await through(squeezed, new DecompressionStream('gzip'))
  return reordered(planes, (i, k, fours) => [k * fours + i, 4 * i + k]).buffer
}

/** Each byte k of each four i moved as `move` says, [from, to]; what is over stays at the end. */
function reordered(bytes: ArrayBuffer, move: (i: number, k: number, fours: number) => [number, number]): Uint8Array<ArrayBuffer> {
  const before = new Uint8Array(bytes)
  const after = before.slice()
  const fours = Math.floor(before.length / 4)
  for (let i = 0; i < fours; i++)
    for (let k = 0; k < 4; k++) {
      const [from, to] = move(i, k, fours)
      after[to] = before[from]
    }
  return after
}

const through = (bytes: BlobPart, change: CompressionStream | DecompressionStream): Promise<ArrayBuffer> =>
  new Response(new Blob([bytes]).stream().pipeThrough(change)).arrayBuffer()

/** The run that this page holds inside itself, when it is a page that stands alone. */
export const enclosure = (): HTMLElement | null => globalThis.document?.getElementById('run') ?? null
