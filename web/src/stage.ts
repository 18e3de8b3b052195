// One drawing on the desk: a text on a model (session) and how it is looked at (view). Components find theirs in the
// context, so that two drawings can stand side by side.

import { getContext, setContext } from 'svelte'
import { Session } from './session.svelte'
import { View } from './view.svelte'

export class Stage {
  readonly session = new Session()
  readonly view: View
  /** The element that holds the drawing. */
  root: HTMLElement | undefined

  constructor(
    /** Tells its elements from those of the other drawing. */
    readonly id: number,
  ) {
    this.view = new View(this.session)
    this.session.onnewtext = () => this.view.look()
  }

  /** Closes what is open; the focus goes back to where it was opened. */
  close(): void {
    this.find(`[data-stop="${this.view.opened}"] h2 button`)?.focus({ preventScroll: true })
    this.view.close()
  }

  /** An element of this drawing. */
  find(selector: string): HTMLElement | null {
    return this.root?.querySelector<HTMLElement>(selector) ?? null
  }
}

const key = Symbol('stage')

export const provideStage = (stage: Stage): Stage => setContext(key, stage)
export const useStage = (): Stage => getContext<Stage>(key)
