// What is said of one cell of the table of stages: its arithmetic, with the numbers put in.

import type { Cell, Stage } from '../../distribution'
import { count, number, percent } from '../../format'
import { say } from '../../messages'
import { quoted } from '../../pieces'

/** The number in the cell. */
export function shown(stage: Stage, cell: Cell): string {
  if (stage.name === 'softmax') return percent(cell.share)
  if (stage.name === 'top-k') return count(cell.value)
  if (stage.name === 'top-p') return percent(cell.value)
  return number(cell.value)
}

export function how(stage: Stage, cell: Cell, label: string): string {
  const text = quoted(label)
  const { name, step } = stage
  if (name === 'softmax' && cell.fate === 'gone') return say('how.softmax.gone', { text })
  if (cell.fate === 'gone') return say('how.gone', { text })
  if (name === 'logits') return say('how.logits', { text, id: cell.id, value: number(cell.value) })
  if (step === null) return say('how.off', { text, name: say(name) })
  const values = {
    text,
    before: number(cell.before),
    value: shown(stage, cell),
    setting: step.setting ?? '',
    p: percent(cell.entering),
    largest: number(stage.largest),
    sum: number(stage.sum),
  }
  const fate = cell.fate === 'cut' ? 'cut' : 'in'
  switch (name) {
    case 'repetition penalty':
      if (cell.value === cell.before) return say('how.penalty.unseen', values)
      return say(cell.before < 0 ? 'how.penalty.multiplied' : 'how.penalty.divided', values)
    case 'temperature':
      return step.setting === 0 ? say(`how.argmax.${fate}`, values) : say('how.temperature', values)
    case 'top-p':
      return say(`how.top-p.${fate}`, { ...values, ahead: percent(Math.max(0, cell.value - cell.entering)), setting: percent(step.setting!) })
    case 'min-p':
      return say(`how.min-p.${fate}`, { ...values, largest: percent(cell.entering / cell.value) })
    case 'top-k':
      return say(`how.top-k.${fate}`, values)
    case 'softmax':
      return say('how.softmax', values)
  }
}
