// The run on screen as one file, with whatever was opened of it: as .cutaway, or inside a page that stands alone.

import { parse, write, type Entry } from '../cutawayfile'
import type { Run } from '../run'
import * as server from '../server'
import { packed } from './pack'

/** Where standalone.html has a place for a run; the same as web/standalone.ts and src/cutaway/look/html.py say. */
const place = '<!--the run-->'

interface Whole {
  bytes: ArrayBuffer
  /** The record was too large to be sent as one: only what the page held of it is here. */
  partial: boolean
}

/** All that every stop of the drawing needs, the numbers explained so far, and the text of every token. */
export async function whole(run: Run, vocabulary: string[]): Promise<Whole> {
  const { bytes, partial } = await fromServer(run)
  const file = bytes ? parse(bytes) : run.file
  const entries = new Map<string, Entry>(file.names.map((name) => [name, file.entry(name)]))
  for (const [name, entry] of run.gathered()) if (!entries.has(name)) entries.set(name, entry)
  const explanations = Object.fromEntries([...run.explanations].filter(([, known]) => known))
  return { bytes: write({ ...file.header, vocabulary, explanations }, entries), partial }
}

async function fromServer(run: Run): Promise<{ bytes: ArrayBuffer | null; partial: boolean }> {
  if (!run.source) return { bytes: null, partial: false }
  try {
    return { bytes: await server.file(run.source.record, ['shown']), partial: false }
  } catch (error) {
    // A record too large to be sent, no longer kept, or a server that is gone: the page has what it has shown.
    if (error instanceof server.Refusal || error instanceof server.Unreachable) return { bytes: null, partial: true }
    throw error
  }
}

/** `state`: how the drawing is looked at, as the address says it. */
export async function standalone(bytes: ArrayBuffer, state: string): Promise<string> {
  const template = await server.part('standalone.html')
  const [before, after] = template.split(place)
  if (after === undefined) throw new Error('standalone.html has no place for a run')
  const data = `<script type="application/octet-stream" id="run" data-state="${encodeURI(state)}">${await packed(bytes)}</script>`
  return before + data + after
}
