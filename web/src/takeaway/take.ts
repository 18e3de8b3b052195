// One picture, handed to the reader.

import { say } from '../messages'
import { quoted } from '../pieces'
import type { Run } from '../run'
import { download, fileName } from './download'
import { png, svg } from './picture'
import type { Picture } from './pictures'

/** False when the picture is too large for this browser. */
export async function takePicture({ root, name }: Picture, kind: 'svg' | 'png', run: Run): Promise<boolean> {
  const text = run.header.text ?? ''
  const file = `${fileName(run.header.model.name, text.slice(0, 30), name)}.${kind}`
  if (kind === 'svg') {
    const description = say('picture.says', { name, model: run.header.model.name, text: quoted(text) })
    download(svg(root, name, description), file, 'image/svg+xml')
    return true
  }
  const blob = await png(root)
  if (blob) download(blob, file, 'image/png')
  return blob !== null
}
