// How large a download is and how long it still takes.

import { say } from '../../messages'

/** Bytes in the units of shops and hubs: 1 MB is a million. */
export function size(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`
}

/** Parameters as they are named: 124 M, 1.2 B. */
export const parameters = (count: number): string =>
  count >= 1e9 ? `${(count / 1e9).toFixed(1)} B` : `${(count / 1e6).toFixed(0)} M`

export interface Mark {
  /** Milliseconds and bytes. */
  at: number
  bytes: number
}

/** Seconds until all has come, at the pace since `first`; null while that cannot be told. */
export function secondsLeft(first: Mark, now: Mark, total: number): number | null {
  const [came, took] = [now.bytes - first.bytes, (now.at - first.at) / 1000]
  return came > 0 && took >= 1 ? ((total - now.bytes) * took) / came : null
}

export function inWords(seconds: number): string {
  if (seconds < 90) return say('fetch.seconds', { count: Math.max(1, Math.round(seconds)) })
  if (seconds < 5400) return say('fetch.minutes', { count: Math.round(seconds / 60) })
  return say('fetch.hours', { count: Math.round(seconds / 3600) })
}
