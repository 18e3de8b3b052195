// A pen that writes SVG: the part of CanvasRenderingContext2D that the pictures are painted with, text kept as text.

interface State {
  fillStyle: string
  strokeStyle: string
  lineWidth: number
  globalAlpha: number
  font: string
  textAlign: CanvasTextAlign
  textBaseline: CanvasTextBaseline
  lineCap: CanvasLineCap
  lineJoin: CanvasLineJoin
  dash: number[]
  /** Whether this state has opened a clipped group, to be closed with it. */
  clips: number
  /** Columns of the affine map from what is painted to the picture: x' = a x + c y + e, y' = b x + d y + f. */
  map: [number, number, number, number, number, number]
}

const first: State = {
  fillStyle: '#000000',
  strokeStyle: '#000000',
  lineWidth: 1,
  globalAlpha: 1,
  font: '10px sans-serif',
  textAlign: 'start',
  textBaseline: 'alphabetic',
  lineCap: 'butt',
  lineJoin: 'miter',
  dash: [],
  clips: 0,
  map: [1, 0, 0, 1, 0, 0],
}

/** A hundredth of a pixel is finer than any eye, and than any printer at the sizes of a page. */
const short = (n: number) => String(Math.round(n * 100) / 100)

export const escaped = (text: string) =>
  text
    .replace(/[^\t\n\r\u0020-\ud7ff\ud800-\udfff\ue000-\ufffd]/g, '\ufffd') // what XML 1.0 cannot hold
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, '\ufffd')
    .replace(/[&<>"]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[c]!)

export class SvgPen {
  private readonly out: string[] = []
  private readonly clipped: string[] = []
  private readonly kept: State[] = []
  private state: State = { ...first }
  private path: string[] = []
  /** Rectangles of one opaque colour in a row become one path. */
  private rects: { key: string; d: string[] } | null = null

  /** `measures`: a canvas pen, for the widths of text. */
  constructor(private readonly measures: Pick<CanvasRenderingContext2D, 'font' | 'measureText'>) {}

  /** The whole picture. Its title and description are what a reader who does not see it is told. */
  document(width: number, height: number, title: string, description: string): string {
    while (this.kept.length) this.restore()
    this.flush()
    for (let i = 0; i < this.state.clips; i++) this.out.push('</g>')
    const head = `<svg xmlns="http://www.w3.org/2000/svg" width="${short(width)}" height="${short(height)}" viewBox="0 0 ${short(width)} ${short(height)}" role="img">`
    const clips = this.clipped.length ? `<defs>${this.clipped.join('')}</defs>` : ''
    return `${head}\n<title>${escaped(title)}</title>\n<desc>${escaped(description)}</desc>\n${clips}${this.out.join('\n')}\n</svg>\n`
  }

  // ---- state

  save(): void {
    this.kept.push({ ...this.state, dash: [...this.state.dash], map: [...this.state.map] })
    this.state.clips = 0
  }

  restore(): void {
    const before = this.kept.pop()
    if (!before) return
    this.flush()
    for (let i = 0; i < this.state.clips; i++) this.out.push('</g>')
    this.state = before
  }

  get fillStyle(): string {
    return this.state.fillStyle
  }
  set fillStyle(color: string) {
    this.state.fillStyle = color
  }
  get strokeStyle(): string {
    return this.state.strokeStyle
  }
  set strokeStyle(color: string) {
    this.state.strokeStyle = color
  }
  get lineWidth(): number {
    return this.state.lineWidth
  }
  set lineWidth(width: number) {
    this.state.lineWidth = width
  }
  get globalAlpha(): number {
    return this.state.globalAlpha
  }
  set globalAlpha(alpha: number) {
    this.state.globalAlpha = alpha
  }
  get font(): string {
    return this.state.font
  }
  set font(font: string) {
    this.state.font = font
  }
  get textAlign(): CanvasTextAlign {
    return this.state.textAlign
  }
  set textAlign(align: CanvasTextAlign) {
    this.state.textAlign = align
  }
  get textBaseline(): CanvasTextBaseline {
    return this.state.textBaseline
  }
  set textBaseline(baseline: CanvasTextBaseline) {
    this.state.textBaseline = baseline
  }
  get lineCap(): CanvasLineCap {
    return this.state.lineCap
  }
  set lineCap(cap: CanvasLineCap) {
    this.state.lineCap = cap
  }
  get lineJoin(): CanvasLineJoin {
    return this.state.lineJoin
  }
  set lineJoin(join: CanvasLineJoin) {
    this.state.lineJoin = join
  }
  setLineDash(dash: number[]): void {
    this.state.dash = [...dash]
  }
  getLineDash(): number[] {
    return [...this.state.dash]
  }

  // ---- where things go

  transform(a: number, b: number, c: number, d: number, e: number, f: number): void {
    const [A, B, C, D, E, F] = this.state.map
    this.state.map = [A * a + C * b, B * a + D * b, A * c + C * d, B * c + D * d, A * e + C * f + E, B * e + D * f + F]
  }
  translate(x: number, y: number): void {
    this.transform(1, 0, 0, 1, x, y)
  }
  scale(x: number, y: number): void {
    this.transform(x, 0, 0, y, 0, 0)
  }
  rotate(angle: number): void {
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)]
    this.transform(cos, sin, -sin, cos, 0, 0)
  }

  // ---- paths

  beginPath(): void {
    this.path = []
  }
  moveTo(x: number, y: number): void {
    this.path.push(`M${short(x)} ${short(y)}`)
  }
  lineTo(x: number, y: number): void {
    this.path.push(`${this.path.length ? 'L' : 'M'}${short(x)} ${short(y)}`)
  }
  bezierCurveTo(x1: number, y1: number, x2: number, y2: number, x: number, y: number): void {
    this.path.push(`C${short(x1)} ${short(y1)} ${short(x2)} ${short(y2)} ${short(x)} ${short(y)}`)
  }
  quadraticCurveTo(x1: number, y1: number, x: number, y: number): void {
    this.path.push(`Q${short(x1)} ${short(y1)} ${short(x)} ${short(y)}`)
  }
  rect(x: number, y: number, width: number, height: number): void {
    this.path.push(`M${short(x)} ${short(y)}h${short(width)}v${short(height)}h${short(-width)}z`)
  }
  roundRect(x: number, y: number, width: number, height: number, radii: number | number[] = 0): void {
    const r = Math.min(Array.isArray(radii) ? radii[0] : radii, width / 2, height / 2)
    if (!(r > 0)) return this.rect(x, y, width, height)
    const arc = (dx: number, dy: number) => `a${short(r)} ${short(r)} 0 0 1 ${short(dx)} ${short(dy)}`
    const [across, down] = [short(width - 2 * r), short(height - 2 * r)]
    this.path.push(
      `M${short(x + r)} ${short(y)}h${across}${arc(r, r)}v${down}${arc(-r, r)}h-${across}${arc(-r, -r)}v-${down}${arc(r, -r)}z`,
    )
  }
  arc(x: number, y: number, radius: number, from: number, to: number, back = false): void {
    this.ellipse(x, y, radius, radius, 0, from, to, back)
  }
  ellipse(x: number, y: number, rx: number, ry: number, turn: number, from: number, to: number, back = false): void {
    const full = 2 * Math.PI
    let sweep = back ? from - to : to - from
    sweep = sweep >= full ? full : ((sweep % full) + full) % full
    const [cos, sin] = [Math.cos(turn), Math.sin(turn)]
    const at = (angle: number) => {
      const [u, v] = [rx * Math.cos(angle), ry * Math.sin(angle)]
      return `${short(x + u * cos - v * sin)} ${short(y + u * sin + v * cos)}`
    }
    this.path.push(`${this.path.length ? 'L' : 'M'}${at(from)}`)
    // SVG cannot draw a whole ellipse in one arc, so it is drawn in halves
    const halves = Math.ceil(sweep / Math.PI - 1e-9)
    const round = `A${short(rx)} ${short(ry)} ${short((turn * 180) / Math.PI)} 0 ${back ? 0 : 1}`
    for (let i = 1; i <= halves; i++) this.path.push(`${round} ${at(from + ((back ? -1 : 1) * sweep * i) / halves)}`)
  }
  closePath(): void {
    if (this.path.length) this.path.push('z')
  }

  fill(): void {
    this.write(`<path d="${this.path.join('')}" ${this.filled()}/>`, this.path.length > 0)
  }
  stroke(): void {
    this.write(`<path d="${this.path.join('')}" ${this.stroked()}/>`, this.path.length > 0)
  }
  fillRect(x: number, y: number, width: number, height: number): void {
    if (!(width && height)) return
    const key = `${this.filled()}${this.placed()}`
    if (this.rects?.key !== key || key.includes('opacity')) {
      this.flush()
      this.rects = { key, d: [] }
    }
    this.rects!.d.push(`M${short(x)} ${short(y)}h${short(width)}v${short(height)}h${short(-width)}z`)
  }
  strokeRect(x: number, y: number, width: number, height: number): void {
    const at = `x="${short(x)}" y="${short(y)}" width="${short(width)}" height="${short(height)}"`
    this.write(`<rect ${at} ${this.stroked()}/>`)
  }
  /** Nothing has been painted where a picture begins. */
  clearRect(): void {}

  clip(): void {
    this.flush()
    const id = `clip${this.clipped.length + 1}`
    this.clipped.push(`<clipPath id="${id}"><path d="${this.path.join('')}"${this.placed()}/></clipPath>`)
    this.out.push(`<g clip-path="url(#${id})">`)
    this.state.clips += 1
  }

  // ---- text and images

  measureText(text: string): TextMetrics {
    this.measures.font = this.state.font
    return this.measures.measureText(text)
  }

  /** `width`: how wide the text stood on the page; another typeface, where this one is missing, is fitted to it. */
  fillText(text: string, x: number, y: number, width?: number): void {
    const { style, weight, size, family } = fontParts(this.state.font)
    const anchor = { start: '', left: '', center: ' text-anchor="middle"', end: ' text-anchor="end"', right: ' text-anchor="end"' }
    const metrics = this.measureText(text)
    const fitted = width ?? metrics.width
    const face = `font-family="${escaped(family)}" font-size="${short(size)}"${weight === '400' ? '' : ` font-weight="${weight}"`}${style === 'normal' ? '' : ` font-style="${style}"`}`
    // The baseline is worked out here: dominant-baseline is not read alike by every program.
    const baseline = y + this.rise(metrics, size)
    const length = fitted > 0 && text.length > 1 ? ` textLength="${short(fitted)}" lengthAdjust="spacingAndGlyphs"` : ''
    this.write(
      `<text x="${short(x)}" y="${short(baseline)}" ${face}${anchor[this.state.textAlign]}${length} xml:space="preserve" ${this.filled()}>${escaped(text)}</text>`,
      text.trim() !== '',
    )
  }

  private rise(metrics: TextMetrics, size: number): number {
    const up = metrics.fontBoundingBoxAscent ?? 0.8 * size
    const down = metrics.fontBoundingBoxDescent ?? 0.2 * size
    switch (this.state.textBaseline) {
      case 'middle':
        return (up - down) / 2
      case 'top':
      case 'hanging':
        return up
      case 'bottom':
      case 'ideographic':
        return -down
      default:
        return 0
    }
  }

  drawImage(image: HTMLCanvasElement, x: number, y: number, width = image.width, height = image.height): void {
    const at = `x="${short(x)}" y="${short(y)}" width="${short(width)}" height="${short(height)}"`
    this.write(`<image ${at} preserveAspectRatio="none" image-rendering="pixelated" href="${image.toDataURL()}"/>`)
  }

  // ---- writing

  private filled(): string {
    const { color, alpha } = colorOf(this.state.fillStyle)
    return `fill="${escaped(color)}"${this.faint(alpha)}`
  }

  private stroked(): string {
    const { strokeStyle, lineWidth, lineCap, lineJoin, dash } = this.state
    const { color, alpha } = colorOf(strokeStyle)
    const cap = lineCap === 'butt' ? '' : ` stroke-linecap="${lineCap}"`
    const join = lineJoin === 'miter' ? '' : ` stroke-linejoin="${lineJoin}"`
    const dashes = dash.length ? ` stroke-dasharray="${dash.map(short).join(' ')}"` : ''
    return `fill="none" stroke="${escaped(color)}" stroke-width="${short(lineWidth)}"${cap}${join}${dashes}${this.faint(alpha)}`
  }

  private faint(alpha: number): string {
    const opacity = alpha * this.state.globalAlpha
    return opacity < 1 ? ` opacity="${short(opacity)}"` : ''
  }

  private placed(): string {
    const [a, b, c, d, e, f] = this.state.map
    if (a === 1 && b === 0 && c === 0 && d === 1) return e === 0 && f === 0 ? '' : ` transform="translate(${short(e)} ${short(f)})"`
    return ` transform="matrix(${[a, b, c, d].map((n) => Math.round(n * 1e5) / 1e5).join(' ')} ${short(e)} ${short(f)})"`
  }

  private write(element: string, visible = true): void {
    if (!visible || this.state.globalAlpha === 0) return
    this.flush()
    const end = element.indexOf('>') - (element.indexOf('/>') === element.indexOf('>') - 1 ? 1 : 0)
    this.out.push(element.slice(0, end) + this.placed() + element.slice(end))
  }

  private flush(): void {
    if (this.rects) this.out.push(`<path d="${this.rects.d.join('')}" ${this.rects.key}/>`)
    this.rects = null
  }
}

/** Any colour a style sheet computes to, as one that every reader of SVG knows, and how opaque it is. */
export function colorOf(css: string): { color: string; alpha: number } {
  const [, kind, inside] = /^(rgba?|color)\((.*)\)$/.exec(css.trim()) ?? []
  if (!kind) return { color: css, alpha: css === 'transparent' ? 0 : 1 }
  const numbers = inside.replace('srgb', '').split(/[\s,/]+/).filter(Boolean).map(Number)
  const [red, green, blue] = kind === 'color' ? numbers.map((share) => Math.round(255 * share)) : numbers
  return { color: `rgb(${red},${green},${blue})`, alpha: numbers[3] ?? 1 }
}

/** "italic 500 15px/1.2 Serif, serif", as canvases take it. */
export function fontParts(font: string): { style: string; weight: string; size: number; family: string } {
  const found = /^(.*?)\s*([\d.]+)px(?:\/\S+)?\s+(.+)$/.exec(font.trim())
  if (!found) return { style: 'normal', weight: '400', size: 10, family: 'sans-serif' }
  const words = found[1].split(/\s+/)
  return {
    style: words.find((word) => word === 'italic' || word === 'oblique') ?? 'normal',
    weight: words.find((word) => /^\d+$/.test(word)) ?? (words.includes('bold') ? '700' : '400'),
    size: Number(found[2]),
    family: found[3],
  }
}
