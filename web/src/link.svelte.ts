// The line to the server, shared by every drawing on the desk: whether it is there, what it can run, how it starts.

import * as server from './server'
import { enclosure } from './takeaway/pack'

/** 'enclosed': the page stands alone, with one run inside it, and looks for nobody. */
type Connection = 'connecting' | 'starting' | 'ready' | 'failed' | 'lost' | 'absent' | 'locked' | 'enclosed'

const pause = (milliseconds: number) => new Promise((done) => setTimeout(done, milliseconds))

class Link {
  connection = $state<Connection>(enclosure() ? 'enclosed' : 'connecting')
  stage = $state('')
  /** Why the model stopped, when it did. */
  failure = $state<string | null>(null)
  /** The server says that a run takes longer than a moment. */
  running = $state(false)
  models = $state.raw<server.ModelEntry[]>([])
  /** The download under way, or just over. */
  fetch = $state.raw<server.Fetching | null>(null)
  /** The reader gave up the first model's load: nothing is run until asked for. */
  stopped = false

  /** Told when a live model can be asked, and when it no longer can. */
  readonly listeners = new Set<{ ready(): void; lost(): void }>()

  private readonly spelt = new Map<string, Promise<string[]>>()
  private stopListening: (() => void) | null = null
  private serverIsThere = false
  private workerIsReady = false

  async connect(): Promise<void> {
    if (this.connection === 'enclosed') return
    this.stopListening?.()
    this.workerIsReady = false
    this.models = []
    this.stopListening = server.listen(
      (event) => this.hear(event),
      () => this.models.length && this.lose(),
    )
    try {
      const models = await server.models()
      this.models = models
      this.serverIsThere = true
      if (this.workerIsReady) this.becomeReady()
      else if (this.connection !== 'failed') this.connection = 'starting'
    } catch (error) {
      this.stopListening()
      if (error instanceof server.Refusal && (error.status === 401 || error.status === 403)) {
        this.connection = 'locked'
        return
      }
      this.connection = this.serverIsThere ? 'lost' : 'absent'
      await pause(this.serverIsThere ? 1500 : 15_000)
      void this.connect()
    }
  }

  /** The server does not answer: say so and try again. */
  lose(): void {
    this.stopListening?.()
    this.connection = 'lost'
    for (const listener of this.listeners) listener.lost()
    void pause(1000).then(() => this.connect())
  }

  /** The readable text of every token id of a model; asked for once. */
  words(model: string): Promise<string[]> {
    let words = this.spelt.get(model)
    if (!words) {
      words = server.vocabulary(model)
      words.catch(() => this.spelt.delete(model))
      this.spelt.set(model, words)
    }
    return words
  }

  /** Another model was asked for after one that could not be loaded. */
  again(): void {
    if (this.connection === 'failed') this.becomeReady()
  }

  private hear(event: server.ServerEvent): void {
    const landed = event.fetch?.done && !this.fetch?.done
    this.fetch = event.fetch ?? null
    if (landed) void server.models().then((models) => (this.models = models))
    this.running = event.state === 'busy'
    this.workerIsReady = event.state === 'ready' || event.state === 'busy'
    if (this.workerIsReady) {
      if (this.connection !== 'ready' && this.models.length) this.becomeReady()
    } else if (event.state === 'failed') {
      this.connection = 'failed'
      this.failure = event.message ?? ''
    } else {
      this.connection = 'starting'
      this.stage = event.stage ?? ''
    }
  }

  private becomeReady(): void {
    this.connection = 'ready'
    this.stage = ''
    this.failure = null
    for (const listener of this.listeners) listener.ready()
    this.stopped = false
  }
}

export const link = new Link()
