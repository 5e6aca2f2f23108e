// node docs_page.mjs REST_URL: what /docs is like on a screen of 390 pixels, as JSON.
import { browse } from "./chromium.mjs";

/** Runs in the page: the words that are broken over two lines, and the tables that stick out without a scroll of their own. */
const measured = () => {
  const broken = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    for (const { 0: word, index } of node.data.matchAll(/[\w{}$]+/g)) {
      const range = document.createRange();
      range.setStart(node, index);
      range.setEnd(node, index + word.length);
      if (new Set([...range.getClientRects()].map(({ top }) => Math.round(top))).size > 1) broken.push(word);
    }
  }
  const scrolls = (element) => element && (getComputedStyle(element).overflowX === "auto" || scrolls(element.parentElement));
  const wide = [...document.querySelectorAll("main *")].filter((element) => element.getBoundingClientRect().right > innerWidth && !scrolls(element));
  return { broken, wide: wide.map((element) => element.outerHTML.slice(0, 80)), width: document.documentElement.scrollWidth };
};

/** Whether the button of an operation can be pressed, and what stands beside it. */
const tryIt = (page, id) =>
  page.$eval(`#${id} .actions:has(button:not(.quiet))`, (actions) => [actions.querySelector("button").disabled, actions.querySelector(".words")?.textContent]);

const told = await browse(async (page) => {
  await page.setViewport({ width: 390, height: 844 });
  await page.goto(`${process.argv[2]}/docs#muteMembers`, { waitUntil: "networkidle0" });
  await page.$$eval("details", (all) => all.forEach((one) => (one.open = true)));
  await page.waitForFunction(() => [...document.querySelectorAll(".operation")].every((one) => one.querySelector("form")));
  await page.$$eval("details", (all) => all.forEach((one) => (one.open = true)));
  const before = [await tryIt(page, "muteMembers"), await tryIt(page, "issueToken"), await tryIt(page, "getMe")];
  await page.click("#credentials button");
  await page.waitForFunction(() => document.querySelector("#credentials [role=status]").textContent === "Filled in.");
  const after = [await tryIt(page, "muteMembers"), await tryIt(page, "getMe")];
  await page.click("#muteMembers form button:not(.quiet)");
  await page.waitForSelector("#muteMembers .result strong");
  const status = await page.$eval("#muteMembers .result strong", ({ textContent }) => textContent);
  return { ...(await page.evaluate(measured)), before, after, status };
});
process.stdout.write(JSON.stringify(told));
