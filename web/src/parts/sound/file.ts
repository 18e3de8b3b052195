// A sound of the reader's, made small enough to send.

/** Bytes that are sent as they are; a request takes two mebibytes, and base64 a third more than the file. */
const most = 1_400_000
const rate = 16_000 // samples a second, as every model that listens hears

/** `seconds`: how much of the sound the model hears at once; what is too large to send is cut there. */
export async function smaller(file: File, seconds: number): Promise<{ sound: File; cut: boolean }> {
  if (file.size <= most && !/webm|mp4/.test(file.type)) return { sound: file, cut: false }
  const samples = await decoded(file, seconds).catch(() => null)
  if (!samples) return { sound: file, cut: false } // the server says what is wrong with it
  return { sound: new File([wav(samples)], file.name, { type: 'audio/wav' }), cut: samples.length >= seconds * rate }
}

/** One channel at 16 kHz, as the browser decodes it. */
async function decoded(file: File, seconds: number): Promise<Float32Array> {
  const whole = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await file.arrayBuffer())
  const room = new OfflineAudioContext(1, Math.max(1, Math.ceil(Math.min(whole.duration, seconds) * rate)), rate)
  const source = new AudioBufferSourceNode(room, { buffer: whole })
  source.connect(room.destination)
  source.start()
  return (await room.startRendering()).getChannelData(0)
}

/** Samples from -1 to 1 as a WAV file of 16 bits. */
export function wav(samples: Float32Array): ArrayBuffer {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * samples.length))
  const word = (at: number, text: string) => [...text].forEach((letter, i) => bytes.setUint8(at + i, letter.charCodeAt(0)))
  word(0, 'RIFF')
  bytes.setUint32(4, 36 + 2 * samples.length, true)
  word(8, 'WAVEfmt ')
  bytes.setUint32(16, 16, true)
  bytes.setUint16(20, 1, true) // uncompressed
  bytes.setUint16(22, 1, true) // one channel
  bytes.setUint32(24, rate, true)
  bytes.setUint32(28, 2 * rate, true)
  bytes.setUint16(32, 2, true)
  bytes.setUint16(34, 16, true)
  word(36, 'data')
  bytes.setUint32(40, 2 * samples.length, true)
  samples.forEach((sample, i) => bytes.setInt16(44 + 2 * i, Math.round(32767 * Math.max(-1, Math.min(1, sample))), true))
  return bytes.buffer
}
