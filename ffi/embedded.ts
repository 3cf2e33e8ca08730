// The native library's place: beside the sources, or inside the compiled executable. Imported only when the
// library is opened, so that code which needs no native code runs before anything is built.

import path from '../build/libmicrodiff.so' with { type: 'file' };

export default path;
