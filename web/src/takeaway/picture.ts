// A picture to take away: a part of the page painted once more, by SVG pen or at twice the size, light on paper.
//
// Canvases are painted again by what painted them. The words, bars and frames around them are read off the document:
// where they stand and in which typeface. Nothing is drawn by a second routine that could come to differ.

import { paintOf } from '../paint/canvas.svelte'
import { inkOf, type Ink } from '../paint/ink'
import { SvgPen } from './svgpen'

type Pen = CanvasRenderingContext2D

const margin = 16

export function svg(root: HTMLElement, title: string, description: string): string {
  return inLight(() => {
    const { width, height } = root.getBoundingClientRect()
    const pen = new SvgPen(document.createElement('canvas').getContext('2d')!)
    paintAll(pen as unknown as Pen, root)
    return pen.document(width + 2 * margin, height + 2 * margin, title, description)
  })
}

export function png(root: HTMLElement, scale = 2): Promise<Blob | null> {
  const canvas = document.createElement('canvas')
  inLight(() => {
    const { width, height } = root.getBoundingClientRect()
    ;[canvas.width, canvas.height] = [Math.ceil((width + 2 * margin) * scale), Math.ceil((height + 2 * margin) * scale)]
    const pen = canvas.getContext('2d')!
    pen.scale(scale, scale)
    paintAll(pen, root)
  })
  return new Promise((done) => canvas.toBlob(done, 'image/png'))
}

/** What is printed is light, whatever the page looks like: it is so while it is read, which is too short to be seen. */
function inLight<T>(read: () => T): T {
  const { dataset } = document.documentElement
  const before = dataset.theme
  dataset.theme = 'light'
  try {
    return read()
  } finally {
    dataset.theme = before
  }
}

function paintAll(pen: Pen, root: HTMLElement): void {
  const ink = inkOf('light')
  const box = root.getBoundingClientRect()
  pen.fillStyle = ink.paper
  pen.fillRect(0, 0, box.width + 2 * margin, box.height + 2 * margin)
  pen.translate(margin - box.left, margin - box.top)
  paintElement(pen, root, ink, 1, false)
}

// What is for screen readers only, and what is there to be pressed.
const leftOut = '.hidden, [data-untaken], summary, dialog'

/** One element and what is in it, in window coordinates. `struck`: an element around it strikes its text through. */
function paintElement(pen: Pen, element: Element, ink: Ink, opacity: number, struck: boolean): void {
  const style = getComputedStyle(element)
  if (style.display === 'none' || style.visibility === 'hidden' || element.matches(leftOut)) return
  const alpha = opacity * Number(style.opacity)
  if (alpha === 0) return
  if (style.transform !== 'none' && element instanceof HTMLElement) return paintTurned(pen, element, style, ink, alpha, struck)
  const box = element.getBoundingClientRect()
  pen.save()
  pen.globalAlpha = alpha
  paintBox(pen, box, style)
  if (element instanceof HTMLCanvasElement) paintCanvas(pen, element, box, ink)
  else if (element instanceof SVGSVGElement) paintVectors(pen, element, alpha)
  else if (element instanceof HTMLSelectElement) paintLine(pen, element.selectedOptions[0]?.text ?? '', inner(box, style), style)
  else if (element instanceof HTMLInputElement) paintInput(pen, element, box, style, ink)
  else {
    if (clips(element, style)) {
      pen.beginPath()
      pen.rect(box.left, box.top, box.width, box.height)
      pen.clip()
    }
    if (element.localName === 'mfrac') paintFraction(pen, element, box, style)
    const strikes = struck || style.textDecorationLine.includes('line-through')
    for (const node of element.childNodes) {
      if (node instanceof Text) paintText(pen, node, style, alpha, strikes)
      else if (node instanceof Element) paintElement(pen, node, ink, alpha, strikes)
    }
  }
  pen.restore()
}

const clips = (element: Element, style: CSSStyleDeclaration) =>
  (style.overflowX !== 'visible' && element.scrollWidth > element.clientWidth + 1) ||
  (style.overflowY !== 'visible' && element.scrollHeight > element.clientHeight + 1)

/** An element that is turned or shifted: painted as it would stand, in a plane that is turned. */
function paintTurned(pen: Pen, element: HTMLElement, style: CSSStyleDeclaration, ink: Ink, alpha: number, struck: boolean): void {
  const { a, b, c, d, e, f } = new DOMMatrix(style.transform)
  const [x, y] = style.transformOrigin.split(' ').map(parseFloat)
  const before = element.style.transform
  element.style.transform = 'none'
  const box = element.getBoundingClientRect()
  pen.save()
  pen.translate(box.left + x, box.top + y)
  pen.transform(a, b, c, d, e, f)
  pen.translate(-box.left - x, -box.top - y)
  paintElement(pen, element, ink, alpha / Number(getComputedStyle(element).opacity), struck)
  pen.restore()
  element.style.transform = before
}

/** Background and borders. */
function paintBox(pen: Pen, box: DOMRect, style: CSSStyleDeclaration): void {
  const radius = parseFloat(style.borderTopLeftRadius) || 0
  const torn = torn_.exec(style.clipPath) !== null
  if (!invisible(style.backgroundColor)) {
    pen.fillStyle = style.backgroundColor
    pen.beginPath()
    if (torn) tornEdge(pen, box)
    else pen.roundRect(box.left, box.top, box.width, box.height, radius)
    pen.fill()
  }
  const sides = (['Top', 'Right', 'Bottom', 'Left'] as const).map((side) => ({
    width: style[`border${side}Style`] === 'none' ? 0 : parseFloat(style[`border${side}Width`]),
    color: style[`border${side}Color`],
    dashed: style[`border${side}Style`] === 'dashed' || style[`border${side}Style`] === 'dotted',
  }))
  const [top, right, bottom, left] = sides
  if (sides.every((side) => side.width === top.width && side.color === top.color)) {
    if (!top.width || invisible(top.color)) return
    pen.strokeStyle = top.color
    pen.lineWidth = top.width
    pen.setLineDash(top.dashed ? [3, 2] : [])
    const half = top.width / 2
    pen.beginPath()
    pen.roundRect(box.left + half, box.top + half, box.width - top.width, box.height - top.width, radius)
    pen.stroke()
    pen.setLineDash([])
    return
  }
  const fill = (side: (typeof sides)[number], x: number, y: number, width: number, height: number) => {
    if (!side.width || invisible(side.color)) return
    pen.fillStyle = side.color
    pen.fillRect(x, y, width, height)
  }
  fill(top, box.left, box.top, box.width, top.width)
  fill(bottom, box.left, box.bottom - bottom.width, box.width, bottom.width)
  fill(left, box.left, box.top, left.width, box.height)
  fill(right, box.right - right.width, box.top, right.width, box.height)
}

const invisible = (color: string) => color === 'transparent' || /(,\s*0|\/\s*0)\)$/.test(color)

// The bar of "everything else" runs off its scale: its end is torn (Distribution.svelte).
const torn_ = /^polygon\(0(px|%)? 0(px|%)?, 100% 0(px|%)?, calc\(100% - 5px\)/

function tornEdge(pen: Pen, { left, top, right, bottom, height }: DOMRect): void {
  pen.moveTo(left, top)
  pen.lineTo(right, top)
  for (const [at, back] of [[0.25, 5], [0.5, 0], [0.75, 5]]) pen.lineTo(right - back, top + at * height)
  pen.lineTo(right, bottom)
  pen.lineTo(left, bottom)
  pen.closePath()
}

function paintCanvas(pen: Pen, canvas: HTMLCanvasElement, box: DOMRect, ink: Ink): void {
  const paint = paintOf(canvas)
  if (!paint) return
  const style = getComputedStyle(canvas)
  const [left, top] = [parseFloat(style.borderLeftWidth) || 0, parseFloat(style.borderTopWidth) || 0]
  const [width, height] = [canvas.clientWidth || box.width, canvas.clientHeight || box.height]
  pen.save()
  pen.translate(box.left + left, box.top + top)
  pen.beginPath()
  pen.rect(0, 0, width, height)
  pen.clip()
  paint(faint(pen), width, height, ink)
  pen.restore()
}

/** Paint functions set the opacity outright; on a dimmed canvas that is a share of its own. */
function faint(pen: Pen): Pen {
  const whole = pen.globalAlpha
  if (whole === 1) return pen
  return new Proxy(pen, {
    get: (target, name) => {
      const value = Reflect.get(target, name) as unknown
      return typeof value === 'function' ? (value as () => unknown).bind(target) : value
    },
    set: (target, name, value) => Reflect.set(target, name, name === 'globalAlpha' ? whole * (value as number) : value),
  })
}

function inner(box: DOMRect, style: CSSStyleDeclaration): DOMRect {
  const left = parseFloat(style.paddingLeft) + parseFloat(style.borderLeftWidth)
  const top = parseFloat(style.paddingTop) + parseFloat(style.borderTopWidth)
  return new DOMRect(box.left + left, box.top + top, box.width - left, box.height - 2 * top)
}

function paintInput(pen: Pen, input: HTMLInputElement, box: DOMRect, style: CSSStyleDeclaration, ink: Ink): void {
  if (input.type === 'number' || input.type === 'text') return paintLine(pen, input.value, inner(box, style), style)
  if (input.type !== 'range') return
  const [least, most] = [Number(input.min || 0), Number(input.max || 100)]
  const y = (box.top + box.bottom) / 2
  const x = box.left + 8 + (box.width - 16) * ((Number(input.value) - least) / (most - least || 1))
  pen.fillStyle = ink.line
  pen.beginPath()
  pen.roundRect(box.left, y - 2.5, box.width, 5, 2.5)
  pen.fill()
  pen.fillStyle = input.disabled ? ink.soft : ink.chosen
  pen.beginPath()
  pen.arc(x, y, 7, 0, 2 * Math.PI)
  pen.fill()
}

/** The bar between what stands above and below. */
function paintFraction(pen: Pen, fraction: Element, box: DOMRect, style: CSSStyleDeclaration): void {
  const [above, below] = [...fraction.children].map((child) => child.getBoundingClientRect())
  if (!above || !below) return
  pen.fillStyle = style.color
  pen.fillRect(box.left, (above.bottom + below.top) / 2 - 0.5, box.width, 1)
}

/** Text that is no text node: of a field or a choice. */
function paintLine(pen: Pen, text: string, box: DOMRect, style: CSSStyleDeclaration): void {
  setFont(pen, style)
  pen.textBaseline = 'middle'
  pen.fillText(text, box.left, (box.top + box.bottom) / 2)
}

function setFont(pen: Pen, style: CSSStyleDeclaration): void {
  pen.font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`
  pen.fillStyle = style.color
  pen.textAlign = 'left'
}

/** A text node, line by line as it was set. */
function paintText(pen: Pen, node: Text, style: CSSStyleDeclaration, alpha: number, struck: boolean): void {
  if (!node.data.trim()) return
  const sign = node.parentElement?.localName === 'mo'
  for (const { text, box } of linesOf(node)) {
    setFont(pen, style)
    pen.globalAlpha = alpha
    const { fontBoundingBoxAscent: up, fontBoundingBoxDescent: down } = pen.measureText(text)
    pen.textBaseline = 'alphabetic'
    if (style.writingMode.startsWith('vertical')) {
      pen.save()
      pen.translate((box.left + box.right) / 2 - (up - down) / 2, box.top)
      pen.rotate(Math.PI / 2)
      pen.fillText(text, 0, 0, box.height)
      pen.restore()
      continue
    }
    // A sign of a formula that stretches stands in a box as high as its ink, any other text in one as high as its typeface.
    const stretched = sign && Math.abs(box.height - up - down) > 1
    const baseline = (box.top + box.bottom) / 2 + (stretched ? inkMiddle(pen, text) : (up - down) / 2)
    pen.fillText(text, box.left, baseline, box.width)
    if (struck) pen.fillRect(box.left, baseline - 0.3 * up, box.width, 1)
  }
}

function inkMiddle(pen: Pen, text: string): number {
  const { actualBoundingBoxAscent: up, actualBoundingBoxDescent: down } = pen.measureText(text)
  return (up - down) / 2
}

/** The lines a text node is broken into, each with where it stands. */
function linesOf(node: Text): { text: string; box: DOMRect }[] {
  const range = document.createRange()
  // Spaces at the ends are left out: where they take room, the text beside them stands further on.
  range.setStart(node, node.data.length - node.data.trimStart().length)
  range.setEnd(node, node.data.trimEnd().length)
  const rects = range.getClientRects()
  const spaced = getComputedStyle(node.parentElement!).whiteSpace.startsWith('pre')
  const clean = (text: string) => (spaced ? text.replace(/[\n\r]/g, '') : text.replace(/\s+/g, ' '))
  if (rects.length === 0) return []
  if (rects.length === 1) return [{ text: clean(node.data.trim()), box: rects[0] }]
  const lines: { text: string; box: DOMRect }[] = []
  let at = 0
  for (const character of node.data) {
    range.setStart(node, at)
    range.setEnd(node, (at += character.length))
    const box = range.getClientRects()[0]
    if (!box || box.width === 0) continue
    const line = lines.at(-1)
    if (line && Math.abs(line.box.top - box.top) < box.height / 2) {
      line.text += clean(character)
      line.box = union(line.box, box)
    } else if (character.trim()) lines.push({ text: clean(character), box })
  }
  return lines
}

function union(a: DOMRect, b: DOMRect): DOMRect {
  const [left, top] = [Math.min(a.left, b.left), Math.min(a.top, b.top)]
  return new DOMRect(left, top, Math.max(a.right, b.right) - left, Math.max(a.bottom, b.bottom) - top)
}

/** Shapes of an SVG in the page: each as the path it is, in the colours it has. */
function paintVectors(pen: Pen, image: SVGSVGElement, alpha: number): void {
  for (const shape of image.querySelectorAll<SVGGeometryElement>('path, line, rect, circle, polygon, polyline')) {
    const style = getComputedStyle(shape)
    const at = shape.getScreenCTM()
    const length = shape.getTotalLength()
    if (!at || !length) continue
    pen.save()
    pen.transform(at.a, at.b, at.c, at.d, at.e, at.f)
    pen.beginPath()
    const steps = Math.max(2, Math.min(64, Math.ceil(length / 3)))
    for (let i = 0; i <= steps; i++) {
      const point = shape.getPointAtLength((length * i) / steps)
      if (i === 0) pen.moveTo(point.x, point.y)
      else pen.lineTo(point.x, point.y)
    }
    pen.globalAlpha = alpha * Number(style.opacity)
    if (style.fill !== 'none') {
      pen.fillStyle = style.fill
      pen.fill()
    }
    if (style.stroke !== 'none') {
      pen.strokeStyle = style.stroke
      pen.lineWidth = parseFloat(style.strokeWidth)
      pen.stroke()
    }
    pen.restore()
  }
}
