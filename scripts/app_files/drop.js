// Pictures are read in the browser and go to the server's memory; no file is sent.
const { count, bytes, together } = props.limits;
const note = (text) => { element.querySelector("output").textContent = text; };

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve({ name: file.name, content: reader.result });
    reader.onerror = () => reject(new Error(`${file.name}: can't be read`));
    reader.readAsDataURL(file);
  });
}

async function take(files) {
  const megabytes = (size) => `${(size / 2 ** 20).toFixed(0)} MB`;
  const total = files.reduce((sum, file) => sum + file.size, 0);
  const large = files.find((file) => file.size > bytes);
  if (!files.length) return;
  if (files.length > count) return note(`${files.length} pictures: at most ${count} are taken.`);
  if (large) return note(`${large.name}: a picture has at most ${megabytes(bytes)}.`);
  if (total > together) return note(`At most ${megabytes(together)} are taken together.`);
  try {
    const pictures = await Promise.all(files.map(read));
    note(`${files.length === 1 ? files[0].name : `${files.length} pictures`}`);
    trigger("pictures", { pictures });
  } catch (error) {
    note(error.message);
  }
}

element.addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = "";  // so that the same file can be taken again
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  element.addEventListener(kind, (event) => {
    event.preventDefault();
    element.querySelector(".drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take([...event.dataTransfer.files]);
  });
}
