// The first picture, before the page's own script has come. The document brings the drawing of the stored run as markup
// (markup.ts); this script, which stands in the document too, puts the sizes on, paints the canvases, and then sends for
// the page's script, which takes over what stands there.
//
//     document: markup, stored run ──> sizes ──> painted ──> page script ──> the same elements, alive

import { inkOf } from '../paint/ink'
import { paintBlock, paintDelta, paintEmbedding, threadScale, type Rows } from '../paint/weave'
import { Recording } from '../recording'
import { chosen, dress, system } from '../theme'

declare global {
  /** The stored run, which came in the document. */
  var storedRun: ArrayBuffer | undefined
}

const page = document.getElementById('page')!
const choice = chosen()
const dark = choice === null ? system().matches : choice === 'dark'
dress(dark)

const stored = document.getElementById('stored')!
const run = (globalThis.storedRun = decoded(stored.textContent))
stored.remove()

/** The markup was made for a screen this wide, and no higher than where the drawing's rows begin to grow. */
const usual = window.matchMedia('(min-width: 1264px) and (max-height: 1077px)').matches
if (usual && !location.hash && !location.search) {
  for (const element of page.querySelectorAll<HTMLElement>('[data-style]')) {
    element.style.cssText = element.dataset.style!
    delete element.dataset.style
  }
  paint(new Recording(run))
  void shown().then(takeOver)
} else {
  page.replaceChildren()
  takeOver()
}

/** Base64 to bytes; a loop, for a call for each of a hundred thousand takes ten milliseconds. */
function decoded(base64: string): ArrayBuffer {
  const binary = atob(base64)
  const bytes = new Uint8Array(binary.length)
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i)
  return bytes.buffer
}

function takeOver(): void {
  void import(/* @vite-ignore */ new URL(page.dataset.script!, document.baseURI).href)
}

/** The browser has shown what was painted; in a tab out of sight, where it shows nothing, a moment has passed. */
function shown(): Promise<unknown> {
  return new Promise((done) => {
    setTimeout(done, 200)
    requestAnimationFrame(() => setTimeout(done))
  })
}

function paint(run: Recording): void {
  const last = run.length - 1
  const ink = inkOf(dark ? 'dark' : 'light')
  const dense = window.devicePixelRatio || 1

  // Everything is measured before anything is sized: each size that is set would have the page laid out again.
  const measured = (element: Element) => element.getBoundingClientRect()
  const canvases = [...page.querySelectorAll<HTMLCanvasElement>('.embedding canvas, .block canvas, .end canvas')]
  const boxes = canvases.map(measured)
  const mouths = [...page.querySelectorAll<HTMLElement>('.next li')].map((row) => ({
    y: (measured(row).top + measured(row).bottom) / 2 - boxes[0].top,
    share: Number(row.dataset.p),
    kind: row.dataset.id === undefined ? ('rest' as const) : row.dataset.drawn === undefined ? ('token' as const) : ('drawn' as const),
  }))
  const pens = canvases.map((canvas, i) => {
    ;[canvas.width, canvas.height] = [Math.round(boxes[i].width * dense), Math.round(boxes[i].height * dense)]
    const pen = canvas.getContext('2d')!
    pen.scale(dense, dense)
    return pen
  })

  const rows: Rows = { first: 0, count: run.length, height: boxes[0].height / run.length, total: run.length, edges: null, leads: last }
  const scale = threadScale(run, rows.height)
  paintEmbedding(pens[0], boxes[0].width, ink, run, rows, last, scale)
  run.blocks.forEach((_, layer) => {
    const { width, height } = boxes[layer + 1]
    const view = { run, layer, head: run.tellingHead(layer, last), rows, chosen: last, from: null, lit: null, scale }
    paintBlock(pens[layer + 1], width, height, ink, view)
  })
  paintDelta(pens.at(-1)!, boxes.at(-1)!.width, ink, run, rows, last, scale, mouths)
}
