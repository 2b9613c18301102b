// The Chromium that CHROMIUM names.
import { chromium } from "playwright-core";

import { binary } from "./support.js";

export const startBrowser = (options = {}) => chromium.launch({ executablePath: binary("CHROMIUM"), ...options });
