// Every sentence of the page, by room. `{name}` in a value is filled by `say`.

import { compare } from './en/compare'
import { drawing } from './en/drawing'
import { lessons } from './en/lessons'
import { lens } from './en/lens'
import { mlp } from './en/mlp'
import { next } from './en/next'
import { numbers } from './en/numbers'
import { offers } from './en/offers'
import { opened } from './en/opened'
import { picture } from './en/picture'
import { shell } from './en/shell'
import { sound } from './en/sound'
import { takeaway } from './en/takeaway'

export const en = { ...shell, ...lessons, ...compare, ...drawing, ...opened, ...mlp, ...lens, ...offers, ...next, ...numbers, ...picture, ...sound, ...takeaway } as const

export type Key = keyof typeof en
