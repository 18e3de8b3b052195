// A canvas that keeps its own size, resolution and theme, and asks to be painted when any of them changes.

import type { Action } from 'svelte/action'
import { theme } from '../theme.svelte'
import { readInk, type Ink } from './ink'

export type Paint = (pen: CanvasRenderingContext2D, width: number, height: number, ink: Ink) => void

/** `use:painted={paint}`: calls `paint` with a cleared pen in CSS pixels; again whenever `paint` or the box changes. */
export const painted: Action<HTMLCanvasElement, Paint> = (canvas, first) => {
  let paint = first
  let asked = 0

  const now = () => {
    asked = 0
    const { width, height } = canvas.getBoundingClientRect()
    if (width === 0 || height === 0) return
    const scale = window.devicePixelRatio || 1
    const [across, down] = [Math.round(width * scale), Math.round(height * scale)]
    if (canvas.width !== across || canvas.height !== down) {
      canvas.width = across
      canvas.height = down
    }
    const pen = canvas.getContext('2d')!
    pen.setTransform(scale, 0, 0, scale, 0, 0)
    pen.clearRect(0, 0, width, height)
    paint(pen, width, height, readInk(canvas))
  }
  const soon = () => (asked ||= requestAnimationFrame(now))

  const watcher = new ResizeObserver(soon)
  watcher.observe(canvas)
  const stopWatchingTheme = theme.onchange(soon)
  soon()

  return {
    update(next) {
      paint = next
      soon()
    },
    destroy() {
      watcher.disconnect()
      stopWatchingTheme()
      cancelAnimationFrame(asked)
    },
  }
}
