// A canvas that keeps its own size and resolution, and is painted again when anything it shows has changed.

import type { Attachment } from 'svelte/attachments'
import { theme } from '../theme.svelte'
import { inkOf, type Ink } from './ink'

export type Paint = (pen: CanvasRenderingContext2D, width: number, height: number, ink: Ink) => void

/** What each canvas on the page was last painted by: pictures to take away are painted again by the same. */
const paints = new WeakMap<HTMLCanvasElement, Paint>()

export const paintOf = (canvas: HTMLCanvasElement): Paint | undefined => paints.get(canvas)

/**
 * `{@attach painted(paint)}`: `paint` gets a cleared pen in CSS pixels; whatever state it reads, it answers to. What is
 * not `seen` is not painted yet.
 */
export function painted(paint: Paint, seen = () => true): Attachment<HTMLCanvasElement> {
  return (canvas) => {
    paints.set(canvas, paint)
    let box = $state.raw({ width: 0, height: 0 })
    const watcher = new ResizeObserver(([entry]) => {
      const { width, height } = entry.contentRect
      box = { width, height }
    })
    watcher.observe(canvas)

    $effect(() => {
      const { width, height } = box
      if (width === 0 || height === 0 || !seen()) return
      const scale = window.devicePixelRatio || 1
      const [across, down] = [Math.round(width * scale), Math.round(height * scale)]
      if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down]
      const pen = canvas.getContext('2d')!
      pen.setTransform(scale, 0, 0, scale, 0, 0)
      pen.clearRect(0, 0, width, height)
      paint(pen, width, height, inkOf(theme.dark ? 'dark' : 'light'))
    })
    return () => watcher.disconnect()
  }
}
