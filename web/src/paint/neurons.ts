// The neurons of an MLP: a field of the most active ones on the tokens of the text, and the profile of all of them.

import type { Ink } from './ink'

type Pen = CanvasRenderingContext2D

interface FieldView {
  neurons: number[]
  /** The tokens shown, from `first` up to, not including, `end`. */
  first: number
  end: number
  value(token: number, neuron: number): number | undefined
  chosen: number
  /** The neuron shown large. */
  picked: number
  lit: { token: number; neuron: number } | null
}

export const columnWidth = (view: Pick<FieldView, 'first' | 'end'>, width: number) => width / Math.max(1, view.end - view.first)

/** One row a neuron, on a scale of its own; one stroke a token: up positive, down negative. */
export function paintField(pen: Pen, width: number, height: number, ink: Ink, view: FieldView): void {
  const { neurons, first, end, chosen, picked, lit } = view
  const [across, down] = [columnWidth(view, width), height / neurons.length]
  if (chosen >= first && chosen < end) {
    pen.globalAlpha = 0.08
    pen.fillStyle = ink.chosen
    pen.fillRect((chosen - first) * across, 0, across, height)
    pen.globalAlpha = 1
  }
  neurons.forEach((neuron, i) => {
    const middle = (i + 0.5) * down
    pen.fillStyle = ink.line
    pen.fillRect(0, middle - 0.35, width, 0.7)
    const most = largestIn(view, neuron)
    for (let token = first; token < end; token++) {
      const value = view.value(token, neuron)
      if (value === undefined) continue
      const tall = Math.min(1, Math.abs(value) / most) * 0.44 * down
      const thick = Math.max(1, Math.min(11, across * 0.5))
      pen.fillStyle = token === chosen || neuron === picked ? ink.chosen : ink.thread
      pen.fillRect((token - first + 0.5) * across - thick / 2, value > 0 ? middle - tall : middle, thick, Math.max(0.5, tall))
    }
  })
  if (lit && neurons.includes(lit.neuron)) {
    pen.strokeStyle = ink.ink
    pen.lineWidth = 1.5
    pen.strokeRect((lit.token - first) * across + 0.75, neurons.indexOf(lit.neuron) * down + 0.75, across - 1.5, down - 1.5)
  }
}

/** The scale of a neuron's row. The first token's activations are often a hundred times the others': they are cut off. */
function largestIn({ first, end, value }: FieldView, neuron: number): number {
  let most = 0
  for (let token = end - first > 1 ? Math.max(1, first) : first; token < end; token++) most = Math.max(most, Math.abs(value(token, neuron) ?? 0))
  return most || 1
}

interface ProfileView {
  /** Magnitudes, the largest first. */
  sizes: ArrayLike<number>
  /** The shares of the largest at which a line is drawn, each with how many are above it. */
  marks: { share: number; above: number; label: string }[]
  lit: number | null
}

const foot = 1

/** The magnitudes side by side, falling; where few neurons work the slope is steep. */
export function paintProfile(pen: Pen, width: number, height: number, ink: Ink, view: ProfileView): void {
  const { sizes, marks, lit } = view
  const x = (place: number) => (place / sizes.length) * width
  const tall = height - foot - 14
  pen.fillStyle = ink.thread
  pen.beginPath()
  pen.moveTo(0, height - foot)
  for (let place = 0; place < sizes.length; place++) {
    const y = height - foot - (sizes[place] / sizes[0]) * tall
    pen.lineTo(x(place), y)
    pen.lineTo(x(place + 1), y)
  }
  pen.lineTo(width, height - foot)
  pen.closePath()
  pen.fill()
  pen.fillStyle = ink.line
  pen.fillRect(0, height - foot, width, foot)
  pen.font = `12px ${ink.serif}`
  pen.textBaseline = 'bottom'
  for (const { share, above, label } of marks) {
    const right = x(above)
    const top = height - foot - share * tall
    pen.fillStyle = ink.chosen
    pen.fillRect(right - 0.5, top - 12, 1, share * tall + 12)
    pen.fillStyle = ink.soft
    pen.textAlign = right > width - 150 ? 'right' : 'left'
    pen.fillText(label, right + (right > width - 150 ? -5 : 5), top - 1)
  }
  if (lit !== null) {
    pen.fillStyle = ink.ink
    pen.fillRect(x(lit) - 0.5, 0, Math.max(1.5, x(1)), height - foot)
  }
}
