// A page of headless Chromium, which ends with what is done in it.
import puppeteer from "puppeteer-core";

export const browse = async (visit) => {
  const browser = await puppeteer.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
  try {
    return await visit(await browser.newPage());
  } finally {
    await browser.close();
  }
};
