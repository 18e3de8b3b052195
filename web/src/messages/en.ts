// Every sentence of the page, by room. `{name}` in a value is filled by `say`.

import { drawing } from './en/drawing'
import { next } from './en/next'
import { opened } from './en/opened'
import { shell } from './en/shell'

export const en = { ...shell, ...drawing, ...opened, ...next } as const

export type Key = keyof typeof en
