// What is looked at, in the address behind the #: it can be sent to a friend, and the browser's back and forward walk it.
//
// What stands behind the # never leaves the browser. A ?text= or ?model= of the first address still counts.

import { enclosure } from './takeaway/pack'
import { readsText } from './recording'
import type { Session } from './session.svelte'
import type { Stop, View } from './view.svelte'

/** Browsers and mail programs take this much without harm. */
export const longest = 4000

/** The settings at which nothing is written down. */
const usual: { [name: string]: number | null } = { temperature: 0.8, topK: null, topP: null, minP: null, repetitionPenalty: null }
const short = { temperature: 't', topK: 'k', topP: 'p', minP: 'm', repetitionPenalty: 'r' } as const

/** What the address, or the file this page stands in, says is to be seen. */
export function addressed(): URLSearchParams {
  const behind = new URLSearchParams(location.hash.slice(1) || decodeURI(enclosure()?.dataset.state ?? ''))
  for (const [name, value] of new URLSearchParams(location.search))
    if (['text', 'model'].includes(name) && !behind.has(name)) behind.set(name, value)
  return behind
}

/** How the drawing is looked at, as it stands behind the #. `text` false: all but the text and its tokens. */
export function written(session: Session, view: View, text = true): string {
  const found = new URLSearchParams()
  text &&= readsText(session.asks) // a picture or a sound is not in the address, nor what was written of it
  if (text && (session.typed !== session.firstText || location.search)) found.set('text', session.typed)
  if (session.model && session.model !== session.firstModel) found.set('model', session.model)
  if (text && session.branches.path.length)
    found.set('more', session.branches.path.map(({ how }) => `${how.draw ? '' : '~'}${how.token}${how.place === null ? '' : `@${how.place}`}`).join())
  for (const [name, letter] of Object.entries(short)) {
    const value = session.settings[name as keyof typeof short]
    if (value !== usual[name]) found.set(letter, value === null ? '' : String(value))
  }
  if (session.seed !== 7) found.set('seed', String(session.seed))
  if (view.opened !== null) found.set('open', String(view.opened))
  if (session.followed !== null) found.set('token', String(view.chosen))
  const heads = Object.entries(view.pickedHeads).map(([layer, head]) => `${layer}:${head}`)
  if (heads.length) found.set('heads', heads.join())
  if (view.trail.length) found.set('trail', view.trail.join(';'))
  return found.toString()
}

/** The settings, as far as they are told and make sense. */
export function setSession(session: Session, told: URLSearchParams): void {
  for (const [name, letter] of Object.entries(short)) {
    const value = told.get(letter)
    if (value === null) session.settings[name as keyof typeof short] = usual[name] as never
    else if (value === '' || Number(value) >= 0) session.settings[name as keyof typeof short] = (value === '' ? null : Number(value)) as never
  }
  session.settings.temperature = Math.min(session.settings.temperature ?? 1, 100)
  if (told.has('seed')) session.sow(Number(told.get('seed')))
}

/** Which stop is open, which token and heads are followed: as far as this run has them. */
function setView(session: Session, view: View, told: URLSearchParams): void {
  const run = session.run
  if (!run) return
  const whole = (text: string | null, below: number) => (text && /^\d{1,9}$/.test(text) && Number(text) < below ? Number(text) : null)
  const open = told.get('open')
  const stop: Stop | null = open === 'embedding' || open === 'end' ? open : whole(open, run.blocks.length)
  const token = whole(told.get('token'), run.length)
  if (token === null) view.followHome()
  else view.follow(token)
  for (const pair of (told.get('heads') ?? '').split(',')) {
    const kind = pair.startsWith('x') ? 'cross' : 'attn'
    const layer = whole(pair.split(':')[0].replace('x', ''), run.blocks.length)
    const head = layer === null ? null : whole(pair.split(':')[1], run.blocks[layer][kind]?.heads ?? 0)
    if (layer !== null && head !== null) view.pickHead(layer, head, kind)
  }
  view.opened = stop
  view.trail = stop === null ? [] : (told.get('trail') ?? '').split(';').filter((cell) => /^[\w.]+\[[-\d,]+\]$/.test(cell)).slice(0, 50)
}

/** Holds the address and the drawing to each other, for as long as the page lives. */
export function follow(session: Session, view: View): void {
  // The run the address asks for may arrive after the stored one, and a new run is looked at afresh: it is told again.
  let told: URLSearchParams | null = addressed()
  const more = (told.get('more') ?? '').split(',').filter((id) => /^~?\d{1,9}(@\d{1,9})?$/.test(id))
  let opened = view.opened
  let waiting: ReturnType<typeof setTimeout> | undefined

  const put = (state: string) => {
    const behind = state.length > longest ? written(session, view, false) : state
    if (behind === location.hash.slice(1)) return
    const where = `${location.pathname}${location.search}${behind && `#${behind}`}`
    try {
      if (view.opened !== opened) history.pushState(null, '', where)
      else history.replaceState(null, '', where)
    } catch {
      // a page inside another has no address of its own
    }
    opened = view.opened
  }

  $effect.root(() => {
    $effect(() => {
      const run = session.run
      if (!run || !told) return
      setView(session, view, told)
      if (run.origin !== 'live' && session.awaits) return
      opened = view.opened
      told = null
      if (more.length) void session.regrow(more.splice(0))
    })
    $effect(() => {
      const state = written(session, view)
      clearTimeout(waiting)
      if (!told) waiting = setTimeout(() => put(state), view.opened === opened ? 300 : 0)
    })
  })

  addEventListener('popstate', () => {
    clearTimeout(waiting)
    const now = addressed()
    setSession(session, now)
    const text = now.get('text') ?? session.firstText
    if (text !== session.typed) session.type(text)
    setView(session, view, now)
    opened = view.opened
  })
}
