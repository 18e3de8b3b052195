// A picture of the reader's, made small enough to send.

/** Bytes that are sent as they are; a request takes a mebibyte, and base64 a third more than the file. */
const most = 700_000
/** Pixels along the longer side of one that is made smaller. */
const long = 1024

export async function smaller(file: Blob): Promise<{ blob: Blob; shrunk: boolean }> {
  if (file.size <= most) return { blob: file, shrunk: false }
  const bitmap = await createImageBitmap(file).catch(() => null)
  if (!bitmap) return { blob: file, shrunk: false } // the server says what is wrong with it
  const scale = Math.min(1, long / Math.max(bitmap.width, bitmap.height))
  const canvas = document.createElement('canvas')
  canvas.width = Math.max(1, Math.round(bitmap.width * scale))
  canvas.height = Math.max(1, Math.round(bitmap.height * scale))
  canvas.getContext('2d')!.drawImage(bitmap, 0, 0, canvas.width, canvas.height)
  const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done, 'image/jpeg', 0.92))
  return { blob: blob ?? file, shrunk: blob !== null }
}
