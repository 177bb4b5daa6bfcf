// What the server tells, held while something is read: an answer may be older than news that came before it.

const held = [];
let reads = 0;

/** Hand a piece of news to who takes it, at once or, while anything is read, after it. */
export function take(handle, data) {
  held.push([handle, data]);
  handOut();
}

/** Read, and draw what was answered, with news held meanwhile; gives what the reading gives. */
export async function during(read) {
  reads += 1;
  try {
    return await read();
  } finally {
    reads -= 1;
    handOut();
  }
}

function handOut() {
  // One that takes news may begin to read.
  while (!reads && held.length) {
    const [handle, data] = held.shift();
    handle(data);
  }
}
