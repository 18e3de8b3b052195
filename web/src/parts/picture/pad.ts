// Drawing with the pointer: white strokes on black, as the digits of MNIST are.

const side = 280
const thick = 0.082 // of the side; MNIST's strokes are about 2.3 of 28 pixels

export const padSide = side

export function clear(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  canvas.width = canvas.height = side
  const pen = canvas.getContext('2d')!
  pen.fillStyle = 'black'
  pen.fillRect(0, 0, side, side)
  pen.strokeStyle = 'white'
  pen.lineWidth = thick * side
  pen.lineCap = pen.lineJoin = 'round'
  return pen
}

/** A three, for there to be something to see before anybody draws. */
export function sample(canvas: HTMLCanvasElement): void {
  const pen = clear(canvas)
  pen.beginPath()
  pen.arc(0.47 * side, 0.36 * side, 0.15 * side, -0.85 * Math.PI, 0.5 * Math.PI)
  pen.arc(0.47 * side, 0.67 * side, 0.17 * side, -0.5 * Math.PI, 0.8 * Math.PI)
  pen.stroke()
}

/** A stretch of a stroke, between two places in shares of the side. */
export function stroke(canvas: HTMLCanvasElement, from: [number, number], to: [number, number]): void {
  const pen = canvas.getContext('2d')!
  pen.beginPath()
  pen.moveTo(from[0] * side, from[1] * side)
  pen.lineTo(to[0] * side, to[1] * side)
  pen.stroke()
}

export const blobOf = (canvas: HTMLCanvasElement): Promise<Blob | null> => new Promise((done) => canvas.toBlob(done, 'image/png'))
