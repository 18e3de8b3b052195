// A file handed to the reader: by a link that downloads, which needs nothing of the page's policy.

export function download(content: BlobPart, name: string, type: string): void {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }))
  const link = document.createElement('a')
  link.href = address
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(address), 60_000)
}

/** Words as a file's name: letters, digits and hyphens, of any script, and not too many. */
export function fileName(...words: string[]): string {
  const name = words.join(' ').toLowerCase().replace(/[^\p{L}\p{N}.]+/gu, '-').replace(/^[-.]+|[-.]+$/g, '')
  return [...name].slice(0, 60).join('') || 'cutaway'
}
