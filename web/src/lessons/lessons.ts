// The seven tours, in the order of the two videos. Every answer is worked out on the run on screen; none is written here.

import { count, number, percent } from '../format'
import { quoted } from '../pieces'
import type { Stage } from '../stage'
import { say } from '../messages'
import type { Before, Choice, Lesson } from './tutor.svelte'

/** Right and wrong answers in an order that tells nothing: by their text. */
function among(right: string, wrong: string[]): Choice[] {
  const all = [...new Set([right, ...wrong])]
  return all.map((text) => ({ text, right: text === right })).sort((a, b) => (a.text < b.text ? -1 : 1))
}

/** As `among`, for numbers: by their size. */
function amounts(right: number, wrong: number[]): Choice[] {
  const all = [...new Set([right, ...wrong])].sort((a, b) => a - b)
  return all.map((n) => ({ text: count(n), right: n === right }))
}

const last = ({ session }: Stage) => session.run!.length - 1
const piece = ({ session }: Stage, t: number) => quoted(session.run!.pieces[t].text)
const block = ({ view }: Stage) => (typeof view.opened === 'number' ? view.opened : 0)
const words = (text: string) => text.trim().split(/\s+/u).length

function openABlock({ view }: Stage): void {
  if (typeof view.opened !== 'number') view.opened = 0
}

/** The four tokens the chosen one reads most in the head shown, strongest first. */
function reads({ session, view }: Stage, layer: number): { from: number; weight: number }[] {
  const run = session.run!
  const to = view.chosen
  const row = run.get(`${run.block(layer)}.attn.pattern`, `${view.head(layer)},${to}`)?.data
  if (!row) return []
  return [...row.keys()]
    .slice(0, to + 1)
    .map((from) => ({ from, weight: row[from] }))
    .sort((a, b) => b.weight - a.weight)
}

/** Whether the blocks of this model read their stream through a norm and leave it as it is. */
const normsFirst = ({ session }: Stage) => {
  const { slots } = session.run!.blocks[0]
  return slots.includes('pre') && !slots.includes('stream')
}

/** Another text has been typed, and is on screen. */
const newlyRun = ({ session }: Stage, before: Before) => session.text !== before.text && session.run?.header.text === session.text

const predict: Lesson = {
  name: 'predict',
  steps: [
    { name: 'text', point: '.prompt .box', done: newlyRun, live: true },
    {
      name: 'guess',
      point: '.part.next',
      veil: '.part.next, .drawing > .plain, .sampling, .prompt .next',
      guess: ({ session }) => {
        const [best, ...others] = session.listed.filter((row) => row.id !== null).map((row) => quoted(session.label(row.id!)))
        return among(best, [others[3], others[7], others[10]].filter((text) => text !== undefined))
      },
      values: (stage) => ({
        last: piece(stage, last(stage)),
        best: quoted(stage.session.label(stage.session.listed[0].id!)),
        p: percent(stage.session.listed[0].plain),
        vocabulary: count(stage.session.run!.spec.head.size),
      }),
    },
    {
      name: 'step',
      point: '.controls',
      live: true,
      done: ({ session }, before) => session.drawnCount > before.drawn,
      values: (stage) => ({ text: piece(stage, last(stage)), count: count(stage.session.run!.length) }),
    },
    {
      name: 'again',
      point: '.controls',
      guess: () => [
        { text: say('lesson.predict.again.same'), right: true },
        { text: say('lesson.predict.again.other'), right: false },
      ],
      values: ({ session }) => ({ seed: session.seed }),
    },
    {
      name: 'play',
      point: '.controls',
      live: true,
      done: ({ session }, before) => session.drawnCount >= before.drawn + 5,
      values: ({ session }) => ({ drawn: count(session.drawnCount) }),
    },
  ],
}

const tokens: Lesson = {
  name: 'tokens',
  steps: [
    {
      name: 'count',
      point: '.first',
      veil: '.first',
      guess: ({ session }) => amounts(session.run!.length, [words(session.text), session.text.length, words(session.text) * 4]),
      values: ({ session }) => ({ words: count(words(session.text)), characters: count(session.text.length), count: count(session.run!.length) }),
    },
    {
      name: 'choose',
      point: '.tokens',
      done: ({ view }, before) => view.chosen !== before.chosen,
      values: (stage) => ({ text: piece(stage, stage.view.chosen), id: stage.session.run!.tokens[stage.view.chosen] }),
    },
    {
      name: 'open',
      point: '[data-stop="embedding"]',
      done: ({ view }) => view.opened === 'embedding',
      values: ({ session }) => ({
        width: count(session.run!.spec.stack.width),
        vocabulary: count(session.run!.spec.head.size),
      }),
    },
    {
      name: 'twice',
      point: '.prompt .box',
      live: true,
      done: (stage, before) => {
        const ids = stage.session.run!.tokens
        return newlyRun(stage, before) && new Set(ids).size < ids.length
      },
    },
    {
      name: 'same',
      point: '[data-stop="embedding"]',
      guess: () => [
        { text: say('lesson.tokens.same.yes'), right: true },
        { text: say('lesson.tokens.same.no'), right: false },
      ],
      values: ({ session }) => ({
        place: say(session.run!.spec.stem.positions ? 'lesson.tokens.same.added' : 'lesson.tokens.same.turned'),
      }),
    },
  ],
}

const inside: Lesson = {
  name: 'inside',
  steps: [
    {
      name: 'thread',
      point: '.blocks',
      guess: (stage) => {
        const run = stage.session.run!
        const norms = [0, run.blocks.length, run.mouth].map((place) => run.norm(place, last(stage)))
        const most = norms.indexOf(Math.max(...norms))
        const names = ['start', 'middle', 'end'] as const
        return names.map((name, i) => ({ text: say(`lesson.inside.thread.${name}`), right: i === most }))
      },
      values: (stage) => {
        const run = stage.session.run!
        const at = (place: number) => number(run.norm(place, last(stage)))
        return { text: piece(stage, last(stage)), start: at(0), middle: at(run.blocks.length), end: at(run.mouth) }
      },
    },
    {
      name: 'open',
      point: '[data-stop="0"]',
      done: ({ view }) => typeof view.opened === 'number',
      values: ({ session }) => ({
        order: say(session.run!.blocks[0].parallel ? 'lesson.inside.open.parallel' : 'lesson.inside.open.chain'),
      }),
    },
    {
      name: 'adds',
      point: '.block.open',
      ready: openABlock,
      values: (stage) => {
        const run = stage.session.run!
        const [layer, t] = [block(stage), stage.view.chosen]
        return {
          change: say(run.blocks[layer].parallel ? 'lesson.inside.adds.parallel' : 'lesson.inside.adds.chain', {
            text: piece(stage, t),
            before: number(run.norm(run.place(layer), t)),
            middle: number(run.norm(run.place(layer, 1), t)),
            after: number(run.norm(run.place(layer + 1), t)),
          }),
        }
      },
    },
    {
      name: 'number',
      fits: normsFirst,
      point: '.arithmetic, .opened .norm',
      ready: openABlock,
      live: true,
      done: ({ view }, before) => view.trail.join() !== before.trail && view.trail.length > 0,
      values: ({ session }) => ({
        all: say(session.run!.blocks[0].norm.kind === 'rms' ? 'lesson.inside.number.rms' : 'lesson.inside.number.layer'),
      }),
    },
    {
      name: 'behind',
      fits: (stage) => !normsFirst(stage),
      point: '.opened .norm',
      ready: openABlock,
    },
    {
      name: 'standard',
      fits: normsFirst,
      point: '.opened .norm',
      ready: openABlock,
      guess: () => [
        { text: say('lesson.inside.standard.stream'), right: false },
        { text: say('lesson.inside.standard.copy'), right: true },
      ],
    },
  ],
}

const attention: Lesson = {
  name: 'attention',
  steps: [
    { name: 'open', point: '[data-stop="1"], [data-stop="0"]', done: ({ view }) => typeof view.opened === 'number' },
    {
      name: 'guess',
      point: '.attention .words, .attention',
      veil: '.opened .attention, .blocks',
      ready: openABlock,
      guess: (stage) => {
        const [best, ...others] = reads(stage, block(stage)).map(({ from }) => `${piece(stage, from)} (${from})`)
        return best === undefined ? [] : among(best, [others[0], others[2], others.at(-1)!].filter((text) => text !== undefined))
      },
      values: (stage) => {
        const [best] = reads(stage, block(stage))
        return {
          head: stage.view.head(block(stage)),
          text: piece(stage, stage.view.chosen),
          best: best ? piece(stage, best.from) : '',
          weight: best ? percent(best.weight) : '',
        }
      },
    },
    {
      name: 'score',
      point: '.attention .square, .attention',
      ready: openABlock,
      live: true,
      done: ({ view }) => /attn\.(scores|pattern)\[/.test(view.trail.at(-1) ?? ''),
    },
    {
      name: 'terms',
      point: '.arithmetic',
      live: true,
      done: ({ view }) => /attn\.[qk](_rot)?\[/.test(view.trail.at(-1) ?? ''),
      values: ({ session }) => ({ width: count(session.run!.blocks[0].attn.width) }),
    },
    {
      name: 'values',
      point: '.attention .flow',
      ready: openABlock,
      guess: () => [
        { text: say('lesson.attention.values.keys'), right: false },
        { text: say('lesson.attention.values.values'), right: true },
        { text: say('lesson.attention.values.words'), right: false },
      ],
    },
  ],
}

const heads: Lesson = {
  name: 'heads',
  steps: [
    {
      name: 'count',
      point: '.blocks',
      guess: ({ session }) => {
        const { blocks } = session.run!
        const all = blocks.reduce((sum, { attn }) => sum + attn.heads, 0)
        return amounts(all, [blocks.length, blocks[0].attn.heads, blocks[0].attn.width * blocks.length])
      },
      values: ({ session }) => {
        const { blocks } = session.run!
        const { heads, kv_heads } = blocks[0].attn
        return {
          blocks: blocks.length,
          heads,
          all: blocks.reduce((sum, { attn }) => sum + attn.heads, 0),
          own: say(heads === kv_heads ? 'lesson.heads.count.own' : 'lesson.heads.count.shared', { share: heads / kv_heads }),
        }
      },
    },
    { name: 'open', point: '[data-stop="0"]', done: ({ view }) => typeof view.opened === 'number' },
    {
      name: 'pick',
      point: '.attention .heads',
      ready: openABlock,
      done: ({ session, view }, before) => session.run!.blocks.some((_, layer) => view.head(layer) !== before.heads[layer]),
      values: (stage) => ({ head: stage.view.head(block(stage)), block: block(stage) }),
    },
    {
      name: 'mask',
      point: '.attention .square, .attention',
      ready: openABlock,
      guess: () => [
        { text: say('lesson.heads.mask.spell'), right: false },
        { text: say('lesson.heads.mask.ahead'), right: true },
        { text: say('lesson.heads.mask.weak'), right: false },
      ],
    },
    {
      name: 'earlier',
      point: '.tokens',
      ready: openABlock,
      done: ({ view }, before) => view.chosen !== before.chosen,
      values: (stage) => {
        const { window } = stage.session.run!.blocks[block(stage)].attn
        const t = stage.view.chosen
        return { text: piece(stage, t), count: count(Math.min(t + 1, window ?? t + 1)) }
      },
    },
    {
      name: 'sum',
      point: '.attention .square, .attention',
      ready: openABlock,
      guess: () => [
        { text: say('lesson.heads.sum.less'), right: false },
        { text: say('lesson.heads.sum.one'), right: true },
      ],
    },
  ],
}

const mlp: Lesson = {
  name: 'mlp',
  steps: [
    { name: 'open', point: '[data-stop="0"]', done: ({ view }) => typeof view.opened === 'number' },
    {
      name: 'count',
      point: '.mlp-room header',
      veil: '.mlp-room',
      ready: openABlock,
      guess: (stage) => {
        const { attn, mlp } = stage.session.run!.blocks[block(stage)]
        return amounts(mlp.hidden, [attn.heads, stage.session.run!.spec.stack.width, mlp.hidden * 10])
      },
      values: (stage) => {
        const { hidden } = stage.session.run!.blocks[block(stage)].mlp
        return { hidden: count(hidden), all: count(hidden * stage.session.run!.blocks.length) }
      },
    },
    {
      name: 'alone',
      point: '.tokens',
      ready: openABlock,
      done: ({ view }, before) => view.chosen !== before.chosen,
      values: (stage) => ({ text: piece(stage, stage.view.chosen) }),
    },
    {
      name: 'neuron',
      point: '.arithmetic, .mlp-room .ranked, .mlp-room',
      ready: openABlock,
      live: true,
      done: ({ view }) => /mlp\.(hidden|up|gate|out)\[/.test(view.trail.at(-1) ?? ''),
    },
    {
      name: 'share',
      point: '.mlp-room header',
      ready: openABlock,
      guess: (stage) => {
        const { stack } = stage.session.run!.spec
        const [attention, neurons] = [0, 1].map((which) => parameters(stack.blocks[block(stage)], stack.width)[which])
        return [
          { text: say('lesson.mlp.share.attention'), right: attention > neurons },
          { text: say('lesson.mlp.share.mlp'), right: neurons >= attention },
        ]
      },
      values: (stage) => {
        const { stack } = stage.session.run!.spec
        const [attention, neurons] = parameters(stack.blocks[block(stage)], stack.width)
        return { attention: count(attention), mlp: count(neurons) }
      },
    },
  ],
}

/** How many weights a block's attention and its MLP multiply by, biases and norms aside. */
export function parameters(
  { attn, mlp }: { attn: { heads: number; kv_heads: number; width: number }; mlp: { hidden: number; gated: boolean } },
  width: number,
): [number, number] {
  return [2 * width * attn.width * (attn.heads + attn.kv_heads), (mlp.gated ? 3 : 2) * width * mlp.hidden]
}

const temperature: Lesson = {
  name: 'temperature',
  steps: [
    {
      name: 'open',
      point: '[data-stop="end"]',
      done: ({ view }) => view.opened === 'end',
      values: ({ session }) => ({
        width: count(session.run!.spec.stack.width),
        vocabulary: count(session.run!.spec.head.size),
      }),
    },
    {
      name: 'logit',
      point: '.arithmetic, .opened .sentence, .opened',
      live: true,
      ready: ({ view }) => (view.opened = 'end'),
      done: ({ view }, before) => view.trail.length > 0 && view.trail.join() !== before.trail,
    },
    {
      name: 'hotter',
      point: '.sampling [data-dial="temperature"]',
      guess: () => [
        { text: say('lesson.temperature.hotter.more'), right: false },
        { text: say('lesson.temperature.hotter.less'), right: true },
        { text: say('lesson.temperature.hotter.same'), right: false },
      ],
    },
    {
      name: 'slide',
      point: '.sampling [data-dial="temperature"]',
      done: ({ session }, before) => session.settings.temperature > Math.max(1.5, before.temperature),
      values: ({ session }) => {
        const [best] = session.listed
        return { t: session.settings.temperature, best: quoted(session.label(best.id!)), plain: percent(best.plain), p: percent(best.probability) }
      },
    },
    { name: 'zero', point: '.sampling [data-dial="temperature"]', done: ({ session }) => session.settings.temperature === 0 },
    {
      name: 'cut',
      point: '.sampling [data-dial="top-k"]',
      ready: ({ session }) => {
        if (session.settings.temperature === 0) session.settings.temperature = 1
      },
      done: ({ session }) => session.settings.topK !== null || session.settings.topP !== null || session.settings.minP !== null,
      values: ({ session }) => ({ left: count(session.trace?.probabilities.filter((p) => p > 0).length ?? 0) }),
    },
  ],
}

export const lessons: Lesson[] = [predict, tokens, inside, attention, heads, mlp, temperature]
