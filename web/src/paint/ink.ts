// The colours of the drawing, read from the style sheet so that light and dark live in one place.

export interface Ink {
  paper: string
  plate: string
  line: string
  ink: string
  soft: string
  thread: string
  chosen: string
  /** Behind what the pointer is on. */
  lit: string
  query: string
  key: string
  value: string
  output: string
  /** Weights: negative, positive. */
  minus: string
  plus: string
  drawn: string
  serif: string
  /** 256 steps of the data scale, from nothing to most. */
  data: string[]
}

const known = new Map<string, Ink>()

/** The ink of a theme, read once. */
export function inkOf(theme: string): Ink {
  let ink = known.get(theme)
  if (!ink) known.set(theme, (ink = readInk()))
  return ink
}

function readInk(): Ink {
  const style = getComputedStyle(document.documentElement)
  const of = (name: string) => style.getPropertyValue(name).trim()
  return {
    paper: of('--paper'),
    plate: of('--plate'),
    line: of('--line'),
    ink: of('--ink'),
    soft: of('--ink-soft'),
    thread: of('--thread'),
    chosen: of('--thread-chosen'),
    lit: of('--lit'),
    query: of('--query'),
    key: of('--key'),
    value: of('--value'),
    output: of('--output'),
    minus: of('--weight-minus'),
    plus: of('--weight-plus'),
    drawn: of('--drawn'),
    serif: of('--serif'),
    data: ramp(of('--data-least'), of('--data-most')),
  }
}

function ramp(least: string, most: string): string[] {
  const [a, b] = [rgb(least), rgb(most)]
  return Array.from({ length: 256 }, (_, i) => {
    const t = i / 255
    return `rgb(${a.map((from, c) => Math.round(from + (b[c] - from) * t)).join(' ')})`
  })
}

function rgb(hex: string): number[] {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16))
}

/** A step of the data scale for a share between 0 and 1; what is not zero never looks like zero. */
export function shade(ink: Ink, share: number): string {
  if (share === 0) return ink.data[0]
  return ink.data[Math.round(20 + 235 * Math.min(1, Math.max(0, share)))]
}
