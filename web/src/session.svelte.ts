// What the page knows and does: the run on screen, the settings of the draw, and the conversation with the server.

import { say } from './messages'
import { Run } from './run'
import { link } from './link.svelte'
import { listedRows, type Row } from './distribution'
import { draw, trace, type Settings } from './sampler'
import * as server from './server'

export interface Trouble {
  message: string
  fix: string
}

type Input = { text: string } | { tokens: number[] }

const firstText = 'Once upon a time there was a'
const pause = (milliseconds: number) => new Promise((done) => setTimeout(done, milliseconds))

// Everything the overview draws comes along while it is small. Of a long text only the last token's hidden activations
// do, and a head's pattern is asked for when it is looked at.
const mostHidden = 1_000_000
const mostPattern = 1_000_000

export class Session {
  run = $state.raw<Run | null>(null)
  vocabulary = $state.raw<string[]>([])
  model = $state<string | null>(null)
  trouble = $state.raw<Trouble | null>(null)

  text = $state(firstText)
  /** The text as it was typed, before anything was drawn. */
  typed = $state(firstText)
  settings = $state<Settings>({ temperature: 0.8, topK: null, topP: null, minP: null, repetitionPenalty: null })
  seed = $state(7)
  /** How many tokens have been drawn since the text was last typed: the step of the next draw. */
  drawnCount = $state(0)
  playing = $state(false)
  ended = $state(false)
  full = $derived(this.run !== null && this.run.length >= this.run.header.spec.context)

  /** The last distribution as the settings make it, step by step. */
  trace = $derived.by(() => {
    const logits = this.run?.logits()
    return logits ? trace(logits, this.run!.header.tokens, this.settings) : null
  })

  /** Where the next draw falls. */
  next = $derived.by(() => {
    if (!this.trace) return null
    if (this.trace.argmax) return { id: this.trace.probabilities.indexOf(1), u: null }
    return draw(this.trace.probabilities, this.seed, this.drawnCount)
  })

  /** The rows of the list of next tokens. */
  listed = $derived.by((): Row[] => {
    const logits = this.run?.logits()
    return logits && this.trace ? listedRows(logits, this.trace, this.next?.id ?? null) : []
  })

  /** The drawing shows another text than the one in the box. */
  stale = $derived(this.trouble !== null || (this.run?.origin === 'stored' && this.run.header.text !== this.text))

  canStep = $derived(link.connection === 'ready' && this.run?.origin === 'live' && this.next !== null)

  /** Called when a run of newly typed text is on screen. */
  onnewtext: () => void = () => undefined

  private request: AbortController | null = null
  /** The run asked for last, until it is on screen or given up. */
  private underWay: Promise<unknown> = Promise.resolve()

  label(id: number): string {
    return this.vocabulary[id] ?? `#${id}`
  }

  /** Looks for a server, whose live model will take over; resolves when the stored run is there to be painted. */
  async open(): Promise<void> {
    const address = new URLSearchParams(location.search)
    const asked = address.get('text')
    this.model = address.get('model')
    if (asked) this.text = this.typed = asked
    link.listeners.add(this)
    void link.connect()
    try {
      const { bytes, vocabulary } = await server.stored('first')
      if (this.run) return
      this.vocabulary = vocabulary
      this.run = new Run(bytes, 'stored', null)
      if (!asked && this.text === firstText) this.text = this.typed = this.run.header.text ?? firstText
      this.onnewtext()
    } catch {
      // without a stored run the page waits for the live one
    }
  }

  /** A live model can be asked: what is on screen is run on it. */
  ready(): void {
    if (!link.models.some((entry) => entry.id === this.model)) this.model = link.models[0]?.id ?? null
    this.trouble = null
    this.takeOver()
  }

  lost(): void {
    this.stop()
  }

  private takeOver(): void {
    const mine = this.run?.origin === 'live' && this.drawnCount > 0
    void this.send(mine ? { tokens: this.run!.header.tokens } : { text: this.text })
  }

  /** The text was typed: forget what was drawn, run the model, the newest request alone counting. */
  type(text: string): void {
    this.stop()
    this.text = this.typed = text
    this.drawnCount = 0
    this.ended = false
    void this.send({ text })
  }

  reset(): void {
    this.type(this.typed)
  }

  /** Another seed starts another sequence of draws. */
  sow(seed: number | null): void {
    if (seed === null || !Number.isSafeInteger(seed) || seed < 0) return
    this.seed = seed
  }

  choose(model: string): void {
    this.model = model
    this.stop()
    this.drawnCount = 0
    this.text = this.typed
    this.takeOver()
  }

  /** Draw the next token, let it travel, and run the model on the longer text. */
  async step(travel: (token: { id: number; text: string }) => Promise<void>): Promise<boolean> {
    await this.underWay
    if (!this.canStep) return false
    const run = this.run!
    const token = { id: this.next!.id, text: this.label(this.next!.id) }
    if (run.length >= run.header.spec.context) {
      this.ended = true
      return false
    }
    const answered = this.send({ tokens: [...run.header.tokens, token.id] }, travel(token))
    if (!(await answered)) return false
    this.drawnCount += 1
    const last = this.run!.pieces.at(-1)
    this.ended = last?.special === true
    return !this.ended
  }

  async play(travel: (token: { id: number; text: string }) => Promise<void>): Promise<void> {
    this.playing = true
    while (this.playing && (await this.step(travel))) await pause(250)
    this.playing = false
  }

  stop(): void {
    this.playing = false
  }

  private wants(length: number): server.Want[] {
    const blocks = this.run?.blocks ?? []
    const hidden = blocks.reduce((sum, block) => sum + block.mlp.hidden * length, 0)
    const pattern = blocks.reduce((sum, block) => sum + block.attn.heads * length * length, 0)
    const wants: server.Want[] = [
      { name: 'embed', at: null },
      { name: 'river', at: null },
      { name: 'logits.last', at: null },
      { name: 'blocks.*.mlp.hidden', at: hidden > mostHidden ? -1 : null },
    ]
    if (pattern <= mostPattern) wants.push({ name: 'blocks.*.attn.pattern', at: null })
    return wants
  }

  /** One run at the server; true when its record is on screen. `hold`: wait for this before showing it. */
  private send(input: Input, hold?: Promise<void>): Promise<boolean> {
    const sent = this.sendNow(input, hold)
    this.underWay = sent
    return sent
  }

  private async sendNow(input: Input, hold?: Promise<void>): Promise<boolean> {
    this.request?.abort()
    if (link.connection !== 'ready' || this.model === null) return false
    if ('text' in input && input.text === '') {
      this.trouble = { message: say('state.empty'), fix: '' }
      return false
    }
    const request = (this.request = new AbortController())
    try {
      const length = 'tokens' in input ? input.tokens.length : input.text.length / 2
      const asked = server.run(this.model, input, this.wants(length), request.signal)
      const [{ bytes, record }, words] = await Promise.all([asked, link.words(this.model), hold])
      if (request.signal.aborted) return false
      this.vocabulary = words
      this.run = new Run(bytes, 'live', {
        record,
        tensor: (name, at) => server.tensor(record, name, at),
        explain: (cell) => server.explain(record, cell),
      })
      if ('text' in input) this.onnewtext()
      if ('tokens' in input && this.run.header.text !== null) this.text = this.run.header.text
      this.trouble = null
      return true
    } catch (error) {
      if (request.signal.aborted) return false
      if (error instanceof server.Unreachable) link.lose()
      else if (error instanceof server.Refusal) this.trouble = { message: error.message, fix: error.fix }
      else this.trouble = { message: say('state.broken', { message: String(error) }), fix: say('state.broken.fix') }
      return false
    } finally {
      if (this.request === request) this.request = null
    }
  }
}
