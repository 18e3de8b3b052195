// The settings of a draw in one line: what is on.

import { say } from '../../messages'
import type { Settings } from '../../sampler'

export function settingsLine({ repetitionPenalty, temperature, topK, topP, minP }: Settings): string {
  const on = [
    repetitionPenalty !== null && say('settings.r', { value: repetitionPenalty }),
    say('settings.t', { value: temperature }),
    topK !== null && say('settings.k', { value: topK }),
    topP !== null && say('settings.p', { value: topP }),
    minP !== null && say('settings.m', { value: minP }),
  ]
  return on.filter(Boolean).join(', ')
}
