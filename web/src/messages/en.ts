// Every sentence of the page, by room. `{name}` in a value is filled by `say`.

import { compare } from './en/compare'
import { drawing } from './en/drawing'
import { next } from './en/next'
import { opened } from './en/opened'
import { shell } from './en/shell'
import { takeaway } from './en/takeaway'

export const en = { ...shell, ...compare, ...drawing, ...opened, ...next, ...takeaway } as const

export type Key = keyof typeof en
